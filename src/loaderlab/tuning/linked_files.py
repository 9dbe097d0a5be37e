"""Keeps a script from changing files of its real working folder, which its scratch copy only links. Does not import torch.

A linked file is replaced by a copy as soon as the script opens it for writing; in a linked folder, writing is refused. Both are seen for files
that Python opens, and for `torch.save` and SQLite.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from loaderlab.attach.wrapping import wrap

WRITING = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_TRUNC | os.O_CREAT


class LinkedFiles:
    """The links of a scratch copy.

    Args:
        folder: the scratch copy.
        files, folders: relative to it.
    """

    def __init__(self, folder: Path, files: Sequence[str], folders: Sequence[str]) -> None:
        self._files = {os.path.join(folder, path) for path in files}
        self._folders = tuple(os.path.join(folder, path) + os.sep for path in folders)

    def watch(self) -> None:
        """Watches from now on what this process opens."""
        if self._files or self._folders:
            sys.addaudithook(self._audit)

    def hook(self, module: ModuleType) -> None:
        """Watches `torch.save`, whose files are written by C++. ``module``: torch.serialization."""

        def make(original: Callable[..., Any]) -> Callable[..., Any]:
            def save(obj: Any, f: Any, *args: Any, **kwargs: Any) -> Any:
                self._write(f, keep=False)
                return original(obj, f, *args, **kwargs)

            return save

        if self._files or self._folders:
            wrap(module, "save", make)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            if (isinstance(flags, int) and flags & WRITING) or (isinstance(mode, str) and mode[:1] in "wax+"):
                self._write(path, keep=not (isinstance(mode, str) and mode.startswith("w")))
        elif event == "sqlite3.connect":
            self._write(arguments[0], keep=True)

    def _write(self, path: Any, *, keep: bool) -> None:
        """Prepares a path for writing; ``keep``: with its content.

        Raises:
            PermissionError: it is in a linked folder.
        """
        if not isinstance(path, str | os.PathLike):
            return
        place = os.path.abspath(path)
        if place in self._files:
            self._files.discard(place)
            original = os.readlink(place)
            os.unlink(place)
            if keep:
                shutil.copy2(original, place)
        elif self._folders and place.startswith(self._folders):
            raise PermissionError(
                f"{place}: loaderlab tune has linked this folder because it has many files, so a trial must not write there"
            )

"""Keeps a script from changing files of its real working folder, which its scratch copy only links. Does not import torch.

A linked file is replaced by a copy as soon as the script opens it for writing; in a linked folder, writing, removing and renaming are refused.
Both are seen for what Python's own functions do, and for `torch.save` and SQLite, in the processes that have the hook: the script's, and those
that it forks.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from loaderlab.attach.wrapping import wrap
from loaderlab.tuning.scratch_copy import ENVIRONMENT

CHANGING = {  # audit events: positions of the paths that change, and of the directories that they are relative to
    "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((0, 2), (1, 3)),  # what is written to the second name later changes the first one
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
    "shutil.rmtree": ((0, 1),),
    "shutil.move": ((0, None), (1, None)),
}
MOVING = (
    "os.rename",
    "os.link",
    "os.truncate",
    "shutil.move",
)  # a linked file becomes a copy before that, as before writing
WRITING = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_TRUNC | os.O_CREAT


class LinkedFiles:
    """The links of a scratch copy.

    Args:
        folder: the scratch copy.
        files, folders: relative to it.
    """

    def __init__(self, folder: Path, files: Sequence[str], folders: Sequence[str]) -> None:
        self._files = {os.path.join(folder, path) for path in files}
        links = [os.path.join(folder, path) for path in folders]
        data = [link for link in links if not os.path.exists(os.path.join(link, ENVIRONMENT))]
        self._folders = tuple(link + os.sep for link in links)
        # `Path.resolve` leads to the originals. Python itself caches its bytecode in an environment
        originals = [os.path.realpath(link) + os.sep for link in data]
        # a link to /tmp contains the scratch copy
        self._originals = tuple(path for path in originals if not os.path.realpath(folder).startswith(path))

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
        elif event in CHANGING:
            for position, directory in CHANGING[event]:
                self._change(
                    arguments[position],
                    -1 if directory is None else arguments[directory],
                    moves=event in MOVING,
                )

    def _change(self, path: Any, directory: Any, *, moves: bool) -> None:
        """Before a path is removed, created or renamed.

        Args:
            directory: file descriptor of the directory to which it is relative; -1 or None: the working folder.

        Raises:
            PermissionError: it is in a linked folder, or is one that would be moved.
        """
        if not isinstance(path, str | bytes | os.PathLike):
            return
        place = os.fsdecode(path)
        if isinstance(directory, int) and directory >= 0:
            with suppress(OSError):  # only Linux has this file
                place = os.path.join(os.readlink(f"/proc/self/fd/{directory}"), place)
        place = os.path.abspath(place)
        parent, name = os.path.split(place)
        original = os.path.join(os.path.realpath(parent), name)
        if (place + os.sep * moves).startswith(self._folders) or original.startswith(self._originals):
            raise _refusal(place)
        if moves:
            self._write(place, keep=True)

    def _write(self, path: Any, *, keep: bool) -> None:
        """Prepares a path for writing; ``keep``: with its content.

        Raises:
            PermissionError: it is in a linked folder.
        """
        if not isinstance(path, str | bytes | os.PathLike):
            return
        place = os.path.abspath(os.fsdecode(path))
        if place in self._files:
            self._files.discard(place)
            original = os.readlink(place)
            os.unlink(place)
            if keep and os.path.exists(original):  # a link may lead to a file that is not there yet
                shutil.copy2(original, place)
        elif place.startswith(self._folders) or os.path.realpath(place).startswith(self._originals):
            raise _refusal(place)


def _refusal(place: str) -> PermissionError:
    return PermissionError(
        f"{place}: loaderlab tune has linked this folder because it has many files or is a symbolic link, so a trial must not write, rename "
        "or remove there. Let the script write to another folder while it is tuned"
    )

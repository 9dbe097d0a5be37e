"""Files and folders that appear whole or not at all, even if the process that writes them is interrupted or killed.

Both context managers give a path of its own beside the target and rename it at the end, on the same file system: other
processes see the former content until then, and the new one afterwards. The name is random, so any number of processes and
threads may write the same target. A killed process leaves its unfinished path behind, named ``.<target's name>.<random>``.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Gives a path to write to, which replaces ``path`` at the end. On any exception ``path`` stays as it was, and what was
    written is removed. The parent folders are made.

    Raises:
        OSError: the folder cannot be made, or the file cannot be renamed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(path)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Gives an empty folder to write to, which is named ``folder`` at the end. On any exception it is removed. The parent
    folders are made. If another process finishes the same folder first, that one stays and this one is removed.

    Raises:
        OSError: the folder cannot be made or renamed.
    """
    partial = _beside(folder)
    partial.mkdir(parents=True)
    try:
        yield partial
        try:
            partial.rename(folder)
        except OSError:
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    r"""Writes a text file as UTF-8, whatever the locale. Bytes of a file's name that are not UTF-8 become ``\xff``."""
    path.write_text(encodable(text), encoding="utf-8")


def encodable(text: str, encoding: str = "utf-8") -> str:
    r"""The text with ``\xff`` in place of what an encoding lacks: the bytes of a file's name that are not UTF-8, for one.

    >>> encodable("é", "ascii"), encodable("\udcff.jpg")
    ('\\xe9', '\\udcff.jpg')
    """
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")

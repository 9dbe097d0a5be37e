"""Writes files and folders atomically: they are complete or absent, even if the writing process is interrupted or killed.

Both context managers return a temporary path next to the target and rename it at the end, on the same file system. Other
processes see the old content until then, and the new content afterwards. The name is random, so several processes and threads
may write the same target. A killed process leaves its temporary path, named ``.<target's name>.<random>``.
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
    """A temporary path to write to, which replaces ``path`` at the end. After an exception ``path`` is unchanged, and the
    temporary file is removed. Creates the parent folders.

    Raises:
        OSError: the folder cannot be created, or the file cannot be renamed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _temporary_path(path)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """An empty temporary folder to write to, which is renamed to ``folder`` at the end. After an exception it is removed.
    Creates the parent folders. If another process finishes the same folder first, that one stays and this one is removed.

    Raises:
        OSError: the folder cannot be created or renamed.
    """
    partial = _temporary_path(folder)
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
    r"""Writes a text file as UTF-8 in any locale. Bytes of file names that are not UTF-8 are written as ``\xff``."""
    path.write_text(encodable(text), encoding="utf-8")


def encodable(text: str, encoding: str = "utf-8") -> str:
    r"""The text with ``\xff`` instead of characters that the encoding lacks, such as bytes of file names that are not UTF-8.

    >>> encodable("é", "ascii"), encodable("\udcff.jpg")
    ('\\xe9', '\\udcff.jpg')
    """
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _temporary_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")

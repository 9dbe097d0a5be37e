"""The folder of the results is used by one program at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from loaderlab.config import UserError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Creates the folder if necessary, and keeps other programs out of it.

    Raises:
        UserError: another program uses the folder, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--folder {folder}: cannot be written: {error.strerror}") from None
    lock = FileLock(folder / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"another run uses {folder}. Choose another folder with --folder") from None
    try:
        yield
    finally:
        lock.release()

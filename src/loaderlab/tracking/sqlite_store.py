"""A store in an SQLite file: its path, its lock, and one quick attempt to open it, because MLflow retries for two minutes."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from loaderlab.system.causes import safe_text

LOCK_S = 120.0
BUSY_S = 30.0


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite store; None for any other kind of store.

    Raises:
        ValueError: the store would be in memory and lost at the end of the process.
    """
    if uri.partition(":")[0].partition("+")[0] != "sqlite":
        return None
    from sqlalchemy.engine import make_url  # its import sets up a logger

    url = make_url(uri)
    if url.database in (None, "", ":memory:") or url.query.get("mode") == "memory":
        raise ValueError("would be in memory only, and lost at the end of the run")
    return Path(str(url.database).removeprefix("file:"))


def try_once(file: Path, *, create: bool, busy_s: float = BUSY_S) -> None:
    """Opens the file once, and checks that it can be written if the store is created or written.

    Args:
        busy_s: how long to wait if another process has locked it.

    Raises:
        sqlite3.Error: the file cannot be opened, is not a database, or cannot be written.
    """
    with closing(connect(file, busy_s)) as connection:
        connection.execute("PRAGMA schema_version").fetchone()
        if not create:
            return
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if "locked" not in safe_text(error):  # another process is writing, so the file can be written
                raise


@contextmanager
def creating(file: Path) -> Iterator[None]:
    """Lets one process at a time create tables and experiments, because several at once fail. Every user may take the lock.

    Raises:
        OSError: the lock's file cannot be written, and the store has no tables yet.
    """
    from filelock import FileLock  # it imports asyncio, which a program that only checks the store does not need

    lock = FileLock(file.with_name(f".{file.name}.creating.lock"), timeout=LOCK_S, mode=0o666)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or not _has_tables(file):
            raise
        yield  # this user may only read the folder
        return
    try:
        yield
    finally:
        lock.release()


@contextmanager
def without_stray_folder(uri: str, file: Path) -> Iterator[None]:
    """Removes the folder ``a%25b`` at the end. MLflow makes it in addition to ``a%b``, the folder that the URI means."""
    literal = Path(uri.partition(":///")[2]).parent
    stray = [] if literal == file.parent else [path for path in (literal, *literal.parents) if not path.exists()]
    try:
        yield
    finally:
        for path in stray:
            try:
                path.rmdir()
            except OSError:
                break


def _has_tables(file: Path) -> bool:
    try:
        with closing(connect(file)) as connection:
            return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone())
    except sqlite3.Error:
        return False


def connect(file: Path, busy_s: float = BUSY_S) -> sqlite3.Connection:
    """A connection that waits while other processes write."""
    return sqlite3.connect(file, timeout=busy_s)

"""A store that is an SQLite file: its path, its lock, and one attempt to open it before MLflow tries for two minutes."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from filelock import FileLock

from loaderlab.system.causes import safe_text

LOCK_S = 120.0
BUSY_S = 30.0


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite store; None for another kind of store.

    Raises:
        ValueError: the store would be in memory, and end with the process.
    """
    if uri.partition(":")[0].partition("+")[0] != "sqlite":
        return None
    from sqlalchemy.engine import make_url  # its import sets up a logger

    url = make_url(uri)
    if url.database in (None, "", ":memory:") or url.query.get("mode") == "memory":
        raise ValueError("would be kept in memory only, and end with the run")
    return Path(str(url.database).removeprefix("file:"))


def try_once(file: Path, *, create: bool) -> None:
    """Opens the file, and writes to it if the store is to be written.

    Raises:
        sqlite3.Error: it cannot be opened, is no database, or cannot be written.
    """
    with closing(connect(file)) as connection:
        connection.execute("PRAGMA schema_version").fetchone()
        if not create:
            return
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if "locked" not in safe_text(error):  # by a process that writes: so it can be written
                raise


@contextmanager
def creating(file: Path) -> Iterator[None]:
    """One process at a time creates tables and experiments: several at once would all fail. Every user may take the lock.

    Raises:
        OSError: the lock's file cannot be written, and the store has no tables yet.
    """
    lock = FileLock(file.with_name(f".{file.name}.creating.lock"), timeout=LOCK_S, mode=0o666)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or not _has_tables(file):
            raise
        yield  # a folder that this user may only read
        return
    try:
        yield
    finally:
        lock.release()


@contextmanager
def without_stray_folder(uri: str, file: Path) -> Iterator[None]:
    """MLflow makes the folder ``a%25b`` of a URI as it is typed, beside the ``a%b`` that it means: removed at the end."""
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


def connect(file: Path) -> sqlite3.Connection:
    """A connection that waits for other writers."""
    return sqlite3.connect(file, timeout=BUSY_S)

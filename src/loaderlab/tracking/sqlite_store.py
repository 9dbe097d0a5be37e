"""A store that is an SQLite file: opened once before MLflow tries for two minutes, and its artifacts, which stand beside it.

MLflow keeps the absolute path of every run's artifacts. Where the store's folder was moved or copied, or is mounted elsewhere,
that path is of the past: `follow_move` puts the present one in its place.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock

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


def artifacts_folder(file: Path) -> Path:
    """Where a store keeps its artifacts: ``artifacts`` beside mlflow.db; other stores of the same folder have their own."""
    return file.parent.resolve() / ("artifacts" if file.name == "mlflow.db" else f"{file.name}.artifacts")


def try_once(file: Path, *, create: bool) -> None:
    """Opens the file, and writes to it if the store is to be written.

    Raises:
        sqlite3.Error: it cannot be opened, is no database, or cannot be written.
    """
    with closing(_connect(file)) as connection:
        connection.execute("PRAGMA schema_version").fetchone()
        if not create:
            return
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):  # by a process that writes: so it can be written
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


def follow_move(file: Path, experiment_id: str) -> str | None:
    """Corrects the experiment's folder of artifacts, and that of each ended run whose artifacts stand beside the store.

    Returns:
        The folder that the experiment's artifacts were in; None if the store has not been moved.

    Raises:
        sqlite3.Error: the store cannot be written.
    """
    with closing(_connect(file)) as connection, connection:
        row = connection.execute("SELECT artifact_location FROM experiments WHERE experiment_id = ?", (experiment_id,))
        former = _local_path((row.fetchone() or ("",))[0])
        if former is None or former.parent == file.parent.resolve():
            return None
        present = file.parent.resolve() / former.name
        query = "SELECT run_uuid, artifact_uri, status FROM runs WHERE experiment_id = ?"
        runs = connection.execute(query, (experiment_id,)).fetchall()
        moved = [run_id for run_id, uri, _ in runs if _local_path(uri) is not None and (present / run_id).is_dir()]
        if not moved and not _was_ours(former, file):
            return None  # somebody chose this folder
        update = "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?"
        connection.execute(update, (present.as_uri(), experiment_id))
        ended = {run_id for run_id, _, status in runs if status != "RUNNING"}
        rows = [((present / run_id / "artifacts").as_uri(), run_id) for run_id in moved if run_id in ended]
        connection.executemany("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", rows)
        return str(former)


def _was_ours(former: Path, file: Path) -> bool:
    """Whether a store made this folder beside itself: it was copied, or moved before anything was in it."""
    if former.name not in ("artifacts", f"{file.name}.artifacts"):
        return False
    return (former.parent / file.name).exists() or not former.parent.exists()


def _local_path(uri: str | None) -> Path | None:
    parts = urlsplit(uri or "")
    return Path(unquote(parts.path)) if parts.scheme == "file" and not parts.netloc else None


def _has_tables(file: Path) -> bool:
    try:
        with closing(_connect(file)) as connection:
            return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone())
    except sqlite3.Error:
        return False


def _connect(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(file, timeout=BUSY_S)

"""Where an SQLite store keeps its artifacts, and how the recorded paths are updated after a store was moved, copied or renamed.

MLflow records the absolute path of each run's artifacts. These paths become wrong when the store's file or folder gets another
path. MLflow has no function to change them, so the statements here change its tables.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from loaderlab.system.files import atomic_folder
from loaderlab.tracking.sqlite_store import connect

DEFAULT_STORE, SUFFIX = "mlflow.db", ".artifacts"
TAG = "loaderlab.artifacts"  # marks an experiment whose artifacts are in the store's own folder, not in one that a user chose
OWN = "own"


@dataclass(frozen=True)
class Missing:
    """Earlier runs whose artifacts are neither in their recorded folder nor next to the store."""

    num_runs: int = 0
    folder: str = ""  # the recorded folder of one of these runs

    def __str__(self) -> str:
        return f"note: {self.num_runs} earlier runs recorded their artifacts in {self.folder}, which no longer exists"


def artifacts_folder(file: Path) -> Path:
    """A store's own folder: ``artifacts`` next to mlflow.db, ``b.db.artifacts`` next to b.db. Links are resolved."""
    file = file.resolve()
    return file.parent / ("artifacts" if file.name == DEFAULT_STORE else f"{file.name}{SUFFIX}")


def follow(file: Path, experiment_id: str) -> Missing:
    """Earlier runs whose artifacts are missing, after updating an experiment's paths to the current path of the store.

    New runs write into the store's own folder. An ended run keeps its path unless its artifacts are next to the store now. A
    folder that a user chose for the experiment is not changed.

    Raises:
        sqlite3.Error: the tables must be changed and cannot be written.
    """
    own = artifacts_folder(file)
    with closing(connect(file)) as connection, connection:
        row = connection.execute("SELECT artifact_location FROM experiments WHERE experiment_id = ?", (experiment_id,))
        recorded = local_path((row.fetchone() or ("",))[0])
        if recorded is None:
            return Missing()
        query = "SELECT run_uuid, artifact_uri FROM runs WHERE experiment_id = ? AND status != 'RUNNING'"
        runs = {run_id: local_path(uri) for run_id, uri in connection.execute(query, (experiment_id,))}
        outside = {run_id: path for run_id, path in runs.items() if path is not None and path.parent.parent != own}
        location = _location(connection, experiment_id, recorded, file, outside)
        if location != recorded:
            update = "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?"
            connection.execute(update, (location.as_uri(), experiment_id))
        elif location != own:
            return Missing()  # a user chose the folder
        present = {run_id: _present(run_id, path, location, file) for run_id, path in outside.items()}
        rows = [(path.as_uri(), run_id) for run_id, path in present.items() if path != outside[run_id]]
        connection.executemany("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", rows)
        return _missing([path.parent.parent for path in present.values()])


def adopt(file: Path, run_id: str) -> None:
    """Copies an earlier run's artifacts into the store's own folder before the run is resumed.

    The run's folder may belong to the store from which this one was copied, so nothing may be written there.

    Raises:
        OSError: the artifacts cannot be read or written.
        sqlite3.Error: the store cannot be written.
    """
    with closing(connect(file)) as connection, connection:
        query = (
            "SELECT runs.artifact_uri, experiments.artifact_location FROM runs JOIN experiments USING (experiment_id) "
            "WHERE run_uuid = ?"
        )
        row = connection.execute(query, (run_id,)).fetchone()
        recorded, location = (local_path(uri) for uri in row or ("", ""))
        own = artifacts_folder(file)
        if recorded is None or location != own or recorded.parent.parent == own:
            return
        target = own / run_id / "artifacts"
        if recorded.is_dir() and not target.exists():
            with atomic_folder(target) as partial:
                shutil.copytree(recorded, partial, dirs_exist_ok=True)
        connection.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (target.as_uri(), run_id))


def local_path(uri: str | None) -> Path | None:
    """The path of a file URI; None for any other URI."""
    parts = urlsplit(uri or "")
    return Path(unquote(parts.path)) if parts.scheme == "file" and not parts.netloc else None


def _location(
    connection: sqlite3.Connection, experiment_id: str, recorded: Path, file: Path, run_ids: Iterable[str]
) -> Path:
    """The folder for the artifacts of new runs. The experiment is tagged if this is the store's own folder."""
    own = artifacts_folder(file)
    query = "SELECT 1 FROM experiment_tags WHERE experiment_id = ? AND key = ?"
    if connection.execute(query, (experiment_id, TAG)).fetchone() is not None:
        return own
    next_to_store = own.parent / recorded.name
    moved_together = next_to_store != recorded and any((next_to_store / run_id).is_dir() for run_id in run_ids)
    made_by_a_store = recorded == own or _store_made(recorded, file) or (moved_together and _has_store_name(recorded))
    if not made_by_a_store:
        return next_to_store if moved_together else recorded
    insert = "INSERT OR IGNORE INTO experiment_tags (key, value, experiment_id) VALUES (?, ?, ?)"
    connection.execute(insert, (TAG, OWN, experiment_id))
    return own


def _store_made(folder: Path, file: Path) -> bool:
    """Whether a store made this folder next to itself, judged by its name and the files next to it. Only for experiments of
    earlier versions, which have no tag."""
    if not _has_store_name(folder):
        return False
    owner = DEFAULT_STORE if folder.name == "artifacts" else folder.name.removesuffix(SUFFIX)
    is_next_to_store = folder.parent == file.resolve().parent
    return is_next_to_store or (folder.parent / owner).exists() or not folder.parent.exists()


def _has_store_name(folder: Path) -> bool:
    return folder.name == "artifacts" or (folder.name.endswith(SUFFIX) and folder.name != SUFFIX)


def _present(run_id: str, recorded: Path, location: Path, file: Path) -> Path:
    """The folder of a run's artifacts: next to the store if they were moved or copied with it, otherwise the recorded folder."""
    if recorded.parts[-2:] != (run_id, "artifacts"):
        return recorded
    next_to_store = file.resolve().parent / recorded.parent.parent.name
    for folder in (location, next_to_store):
        if (folder / run_id).is_dir():
            return folder / run_id / "artifacts"
    return recorded


def _missing(folders: list[Path]) -> Missing:
    missing = [folder for folder in folders if not folder.is_dir()]
    return Missing(len(missing), str(missing[0])) if missing else Missing()

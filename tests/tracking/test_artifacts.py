"""Stores that were moved, copied or renamed: each writes into its own folder, and earlier artifacts can still be read."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from loaderlab.config import TrackingConfig
from loaderlab.tracking import artifacts, open_store
from loaderlab.tracking.artifacts import Missing, adopt, artifacts_folder, follow, local_path
from loaderlab.tracking.store import Store
from tests.tracking.test_tracking import run_with_note


def opened(file: Path) -> Store:
    quoted = str(file).replace("%", "%25").replace("?", "%3F").replace("#", "%23")
    return open_store(TrackingConfig(uri=f"sqlite:///{quoted}", experiment="test"), file.parent)


def files_below(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("note.txt")}


@pytest.fixture
def first(tmp_path: Path, empty_store: Path) -> Path:
    (tmp_path / "a").mkdir()
    return Path(shutil.copy(empty_store, tmp_path / "a" / "mlflow.db"))


CHANGES: dict[str, tuple[str, Callable[[Path, Path], object]]] = {
    "copied and renamed": ("x/renamed.db", shutil.copy),
    "moved and renamed": ("x/renamed.db", shutil.move),
    "copied in its folder": ("a/c.db", shutil.copy),
    "renamed in its folder": ("a/c.db", shutil.move),
    "copied": ("x/mlflow.db", shutil.copy),
    "moved without its artifacts": ("x/mlflow.db", shutil.move),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["mlflow.db", "a.db"])
def test_a_store_with_another_path_writes_into_its_own_folder(
    change: str, name: str, first: Path, tmp_path: Path
) -> None:
    first = first.rename(first.with_name(name))
    former = run_with_note(opened(first), tmp_path, "former")
    before = files_below(tmp_path / "a")
    target, apply = CHANGES[change]
    file = tmp_path / target
    file.parent.mkdir(exist_ok=True)
    apply(first, file)
    store = opened(file)
    assert store.read(former, "note.txt") == "former"
    later = run_with_note(store, tmp_path, "later")
    assert (artifacts_folder(file) / later / "artifacts" / "note.txt").read_text() == "later"
    assert opened(file).read(later, "note.txt") == "later"
    unchanged = {path: text for path, text in files_below(tmp_path / "a").items() if later not in path}
    assert unchanged == before


@pytest.mark.parametrize("is_copied", [True, False])
def test_a_moved_or_copied_folder_with_a_renamed_store(is_copied: bool, first: Path, tmp_path: Path) -> None:
    """Artifacts next to the store are read from there, even if their folder has the name of the former store's folder."""
    former = run_with_note(opened(first), tmp_path, "former")
    if is_copied:
        shutil.copytree(tmp_path / "a", tmp_path / "x")
        (tmp_path / "a" / "artifacts" / former / "artifacts" / "note.txt").write_text("of the original")
    else:
        (tmp_path / "a").rename(tmp_path / "x")
    file = (tmp_path / "x" / "mlflow.db").rename(tmp_path / "x" / "renamed.db")
    store = opened(file)
    assert store.read(former, "note.txt") == "former"
    assert "note:" not in store.ui_text()


def test_resuming_a_run_in_a_copied_store_does_not_change_the_original(first: Path, tmp_path: Path) -> None:
    run_id = run_with_note(opened(first), tmp_path, "former")
    before = files_below(tmp_path / "a")
    copy = Path(shutil.copy(first, tmp_path / "a" / "copy.db"))
    store = opened(copy)
    assert store.read(run_id, "note.txt") == "former"
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "more.txt").write_text("more")
    with store.resume(run_id) as run:
        run.artifacts(tmp_path / "more")
    assert [store.read(run_id, name) for name in ("note.txt", "more.txt")] == ["former", "more"]
    assert (artifacts_folder(copy) / run_id / "artifacts" / "more.txt").exists()
    assert not (artifacts_folder(first) / run_id / "artifacts" / "more.txt").exists()
    assert {path: text for path, text in files_below(tmp_path / "a").items() if path in before} == before


def test_a_link_to_a_store_is_the_same_store(first: Path, tmp_path: Path) -> None:
    run_with_note(opened(first), tmp_path, "former")
    link = tmp_path / "link.db"
    link.symlink_to(first)
    later = run_with_note(opened(link), tmp_path, "later")
    assert (tmp_path / "a" / "artifacts" / later).exists()


def test_missing_artifacts_are_reported_in_one_line(first: Path, tmp_path: Path) -> None:
    run_with_note(opened(first), tmp_path, "former")
    (tmp_path / "x").mkdir()
    copy = Path(shutil.copy(first, tmp_path / "x" / "renamed.db"))
    assert "note:" not in opened(copy).ui_text()
    shutil.rmtree(tmp_path / "a")
    assert [line for line in opened(copy).ui_text().splitlines() if "note:" in line] == [
        f"note: 1 earlier runs recorded their artifacts in {tmp_path / 'a' / 'artifacts'}, which no longer exists"
    ]


# The tests below do not use MLflow: their stores have only the three tables that `follow` uses.

TABLES = """
CREATE TABLE experiments (experiment_id INTEGER PRIMARY KEY, artifact_location TEXT);
CREATE TABLE experiment_tags (key TEXT, value TEXT, experiment_id INTEGER, PRIMARY KEY (key, experiment_id));
CREATE TABLE runs (run_uuid TEXT PRIMARY KEY, artifact_uri TEXT, status TEXT, experiment_id INTEGER);
"""


def make(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.executescript(TABLES)
        connection.execute("INSERT INTO experiments VALUES (1, ?)", (artifacts_folder(file).as_uri(),))


def location(file: Path) -> Path:
    with closing(sqlite3.connect(file)) as connection:
        path = local_path(connection.execute("SELECT artifact_location FROM experiments").fetchone()[0])
    assert path is not None
    return path


def runs(file: Path) -> dict[str, Path]:
    with closing(sqlite3.connect(file)) as connection:
        rows = connection.execute("SELECT run_uuid, artifact_uri FROM runs").fetchall()
    return {run_id: path for run_id, uri in rows if (path := local_path(uri)) is not None}


def record(file: Path) -> str:
    """A run whose one artifact contains its id."""
    run_id = uuid.uuid4().hex
    folder = location(file) / run_id / "artifacts"
    folder.mkdir(parents=True)
    (folder / "note.txt").write_text(run_id)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("INSERT INTO runs VALUES (?, ?, 'FINISHED', 1)", (run_id, folder.as_uri()))
    return run_id


def text_of(run: Path) -> str | None:
    note = run / "note.txt"
    return note.read_text() if note.exists() else None


def test_a_folder_that_a_user_chose_is_kept_even_with_the_name_of_a_stores_folder(tmp_path: Path) -> None:
    file = tmp_path / "mlruns" / "mlflow.db"
    make(file)
    chosen = tmp_path / "own" / "artifacts"
    chosen.mkdir(parents=True)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE experiments SET artifact_location = ?", (chosen.as_uri(),))
    record(file)
    assert follow(file, "1") == Missing()
    assert location(file) == chosen


IN_MEMORY = (
    "/dev/shm" if Path("/dev/shm").is_dir() else None
)  # SQLite waits for the disk at each commit, so memory is faster
NAMES = st.text(st.sampled_from("ab .%#?&'é日2F"), min_size=1, max_size=6).filter(lambda name: name.strip(" .") != "")
STORES = st.one_of(st.just("mlflow.db"), NAMES.map(lambda name: f"{name}.db"))
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["move file", "copy file", "move folder", "copy folder", "rename", "duplicate", "continue"]),
        st.integers(0, 5),  # index of the store
        NAMES,
        STORES,
        st.booleans(),  # whether it is opened and written to before the next operation
    ),
    min_size=1,
    max_size=4,
)


def applied(root: Path, files: list[Path], kind: str, which: int, folder: str, name: str) -> list[Path]:
    """The stores after an operation; a target that exists is not replaced."""
    source = files[which % len(files)]
    rest = [file for file in files if file != source]
    target = source.with_name(name) if kind in ("rename", "duplicate") else root / folder / name
    if kind in ("move folder", "copy folder"):
        target = root / folder / source.name
        if target.parent.exists():
            return files
        in_folder = [file for file in files if file.parent == source.parent]
        moved = [target.parent / file.name for file in in_folder]
        if kind == "copy folder":
            shutil.copytree(source.parent, target.parent)
            return [*files, *moved]
        source.parent.rename(target.parent)
        return [*(file for file in files if file not in in_folder), *moved]
    if kind == "continue" or target.exists() or artifacts_folder(target).exists():
        return files
    target.parent.mkdir(parents=True, exist_ok=True)
    if kind in ("copy file", "duplicate"):
        shutil.copy(source, target)
        return [*files, target]
    source.rename(target)
    return [*rest, target]


@given(STORES, OPERATIONS, st.booleans())
def test_property_stores_that_were_moved_copied_and_renamed(
    name: str, operations: list[tuple[str, int, str, str, bool]], tagged: bool
) -> None:
    """A store writes only into its own folder, and each recorded artifact can be read or is counted as missing.

    Stores of earlier versions have no tag. One change to them is followed, except a file moved without its folder: a user may
    have chosen that folder.
    """
    if not tagged:
        operations = [operation for operation in operations if operation[0] != "move file"][:1]
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        root = Path(folder).resolve()
        files = [root / "first" / name]
        make(files[0])
        if tagged:
            follow(files[0], "1")
        record(files[0])
        for kind, which, below, new_name, is_used in operations:
            files = applied(root, files, kind, which, below, new_name)
            for file in files if is_used else ():
                follow(file, "1")
                record(file)
                if kind == "continue":
                    run_id, path = next(iter(runs(file).items()))
                    if text_of(path):  # missing artifacts cannot be copied
                        adopt(file, run_id)
        folders = {artifacts_folder(file) for file in files}
        assert len(folders) == len(files)
        for file in files:
            check(file)


def check(file: Path) -> None:
    missing = follow(file, "1")
    own = artifacts_folder(file)
    assert location(file) == own
    unreadable = [run_id for run_id, path in runs(file).items() if text_of(path) != run_id]
    assert len(unreadable) <= missing.num_runs
    run_id = record(file)
    assert runs(file)[run_id].parent.parent == own
    for run_id, path in runs(file).items():
        text = text_of(path)
        adopt(file, run_id)
        adopted = runs(file)[run_id]
        assert adopted.parent.parent == own
        assert text_of(adopted) == text
    assert follow(file, "1") == Missing()
    assert artifacts.TAG in tags(file)


def tags(file: Path) -> list[str]:
    with closing(sqlite3.connect(file)) as connection:
        return [key for (key,) in connection.execute("SELECT key FROM experiment_tags")]

"""The store: recorded values, how runs end, and the errors if it cannot be written."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from loaderlab.config import TrackingConfig
from loaderlab.data.spec import DataSpec
from loaderlab.system.processes import Terminated, process_identity, undisturbed
from loaderlab.tracking import open_store
from loaderlab.tracking.store import HOST_TAG, PID_TAG, STARTED_TAG, Store, StoreError, _host
from loaderlab.tracking.uri import store_uri, ui_command


@pytest.fixture
def store(store_uri: str, tmp_path: Path) -> Store:
    return open_store(TrackingConfig(uri=store_uri, experiment="test"), tmp_path)


def test_default_store_is_in_the_project(tmp_path: Path) -> None:
    uri = store_uri(TrackingConfig(), tmp_path)
    assert uri == f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    assert ui_command(uri).endswith(f"mlflow ui --backend-store-uri {uri}")


def test_params_metrics_tags_and_artifacts(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "artifacts"
    folder.mkdir()
    (folder / "note.txt").write_text("hello")
    with store.start("a run", None, {"arm": "native"}) as run:
        run.params([(f"group.key{index}", index) for index in range(120)] + [("nothing", None)])
        for step in range(2500):
            run.metric("train/loss", 1 / (step + 1), step)
        run.metric("val/loss", float("inf"), 1)
        run.metric("val/loss", float("nan"), 2)
        run.artifacts(folder)
    recorded = store.client.get_run(run.run_id)
    assert recorded.info.status == "FINISHED"
    assert recorded.info.run_name == "a run"
    assert len(recorded.data.params) == 121
    assert recorded.data.params["nothing"] == "null"
    assert recorded.data.tags["arm"] == "native"
    assert "val/loss" not in recorded.data.metrics
    history = store.client.get_metric_history(run.run_id, "train/loss")
    assert [entry.step for entry in history] == list(range(2500))
    assert [entry.path for entry in store.client.list_artifacts(run.run_id)] == ["note.txt"]


def test_ctrl_c_during_the_last_write_does_not_leave_the_run_running(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = store.start("a run", None, {})
    run.metric("train/loss", 1.0, 1)
    write = store.client.log_batch

    def interrupted_write(*args: Any, **kwargs: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        write(*args, **kwargs)

    monkeypatch.setattr(store.client, "log_batch", interrupted_write)
    with pytest.raises(KeyboardInterrupt):
        run.end("FINISHED")
    assert (store.client.get_run(run.run_id).info.status, run.status) == ("FINISHED", "FINISHED")


def test_signal_handlers_are_restored_after_an_interrupted_write() -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    reached = []

    def twice() -> None:
        with undisturbed():
            signal.raise_signal(signal.SIGINT)
            with undisturbed():
                reached.append("the inner block does not end the outer one")
            signal.raise_signal(signal.SIGINT)
            reached.append("the second signal did not interrupt")

    with pytest.raises(KeyboardInterrupt):
        twice()
    assert len(reached) == 1
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    with undisturbed():
        handler = signal.getsignal(signal.SIGINT)
    assert callable(handler)
    with pytest.raises(KeyboardInterrupt):
        handler(signal.SIGINT, None)  # even a handler that was not restored raises after its block


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_during_a_write(store: Store, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The first Ctrl-C waits until everything is written; a second one, for a write that hangs, interrupts it at once."""
    write = store.client.log_batch
    interrupted: list[int] = []

    def interrupted_write(*args: Any, **kwargs: Any) -> None:
        if not interrupted:
            interrupted.append(1)
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        write(*args, **kwargs)

    monkeypatch.setattr(store.client, "log_batch", interrupted_write)
    run = store.start("a run", None, {})
    for step in range(1000):
        run.metric("train/loss", 1.0, step)
    with pytest.raises(KeyboardInterrupt):
        run.flush()
    written = len(store.client.get_metric_history(run.run_id, "train/loss"))
    assert written == (1000 if times == 1 else 0)
    run.end("KILLED")
    assert len(store.client.get_metric_history(run.run_id, "train/loss")) == 1000


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (ValueError(), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (Terminated(), "KILLED"),
        (SystemExit(1), "FAILED"),
    ],
)
def test_status_says_how_a_run_ended(error: BaseException | None, status: str, store: Store) -> None:
    def body() -> None:
        with store.start("run", None, {}) as run:
            ids.append(run.run_id)
            run.metric("val/loss", 1.0, 3)
            if error is not None:
                raise error

    ids: list[str] = []
    if error is None:
        body()
    else:
        with pytest.raises(type(error)):
            body()
    recorded = store.client.get_run(ids[0])
    assert recorded.info.status == status
    assert recorded.data.metrics == {"val/loss": 1.0}


def test_runs_of_dead_processes_are_closed_at_the_next_start(store: Store, tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = process_identity(dead.pid)
    dead.communicate(b"\n")
    own = store.start("own", None, {})
    tags = {HOST_TAG: _host(), PID_TAG: str(dead.pid), STARTED_TAG: str(started)}
    killed = store.client.create_run(store.experiment_id, tags=tags).info.run_id
    elsewhere = store.client.create_run(store.experiment_id, tags=tags | {HOST_TAG: "another"}).info.run_id
    reused = store.client.create_run(
        store.experiment_id, tags=tags | {PID_TAG: str(os.getpid()), STARTED_TAG: str(started)}
    )
    open_store(TrackingConfig(uri=store.uri, experiment="test"), tmp_path)
    states = {
        run_id: store.client.get_run(run_id).info.status
        for run_id in (own.run_id, killed, elsewhere, reused.info.run_id)
    }
    assert states == {
        own.run_id: "RUNNING",
        killed: "KILLED",
        elsewhere: "RUNNING",
        reused.info.run_id: "KILLED",
    }
    assert store.client.get_run(killed).data.tags["error"] == "its process was killed"


def test_the_dataset_is_an_input_of_the_run(store: Store, image_tree: Path) -> None:
    from loaderlab import data
    from loaderlab.config import ImageFolderData

    spec: DataSpec = data.build(ImageFolderData(root=str(image_tree)), lambda *_: None)
    with store.start("run", None, {}) as run:
        run.dataset(spec)
    inputs = store.client.get_run(run.run_id).inputs
    assert inputs is not None
    assert [(entry.dataset.name, entry.dataset.digest) for entry in inputs.dataset_inputs] == [
        ("imagefolder", spec.digest)
    ]


def test_child_of_a_parent(store: Store) -> None:
    with store.start("parent", None, {}) as parent, store.start("child", parent.run_id, {}) as child:
        pass
    assert store.client.get_run(child.run_id).data.tags["mlflow.parentRunId"] == parent.run_id


@pytest.mark.parametrize(
    "uri", ["sqlite:////proc/nosuch/mlflow.db", "sqlite:////dev/null/x/mlflow.db", "nosuch://x", "./folder"]
)
def test_a_store_that_cannot_exist_is_an_error(uri: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError) as raised:
        open_store(TrackingConfig(uri=uri), tmp_path)
    assert f"tracking.uri={uri}" in str(raised.value)
    assert "tracking.uri=sqlite:////tmp/mlflow.db" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "http://127.0.0.1:nosuch", "http://"])
def test_a_server_that_does_not_answer_is_an_error_at_once(uri: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"tracking.uri={uri}: no tracking server answers there"):
        open_store(TrackingConfig(uri=uri), tmp_path)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from loaderlab.config import TrackingConfig
from loaderlab.tracking import open_store
from loaderlab.tracking.store import StoreError
uri, db = sys.argv[1], Path(sys.argv[1].removeprefix("sqlite:///"))
store = open_store(TrackingConfig(uri=uri, experiment="test"), db.parent)
run = store.start("run", None, {})
run.metric("val/loss", 1.0, 1)
run.flush()
size = db.stat().st_size
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
for step in range(50000):
    run.metric("val/accuracy", 1.0, step)
try:
    run.flush()
except StoreError as error:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print("error:", error)
    print("stored:", store.client.get_run(run.run_id).data.metrics["val/loss"])
"""


def test_a_full_disk_is_an_error_and_earlier_values_stay(store_uri: str) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK, store_uri], capture_output=True, text=True, timeout=120)
    assert "error: tracking.uri=" in done.stdout, done.stderr
    assert "writable disk with space left" in done.stdout
    assert "stored: 1.0" in done.stdout


def test_a_deleted_experiment_is_an_error(store: Store, tmp_path: Path) -> None:
    MlflowClient(store.uri).delete_experiment(store.experiment_id)
    with pytest.raises(StoreError, match="was deleted in this store"):
        open_store(TrackingConfig(uri=store.uri, experiment="test"), tmp_path)


def test_a_metric_that_is_not_in_the_registry_is_an_error(store: Store) -> None:
    with store.start("run", None, {}) as run, pytest.raises(AssertionError, match="nosuch/metric"):
        run.metric("nosuch/metric", 1.0, 1)


@pytest.mark.parametrize("name", ["a b", "50%", "a%25b", "what?", "#1", "é", "a&b='c'"])
def test_the_checkout_may_have_any_name(name: str, tmp_path: Path, empty_store: Path) -> None:
    root = tmp_path / name
    (root / "mlruns").mkdir(parents=True)
    shutil.copy(empty_store, root / "mlruns" / "mlflow.db")
    store = open_store(TrackingConfig(), root)
    (tmp_path / "note.txt").write_text("hello", encoding="utf-8")
    with store.start("a run", None, {}) as run:
        store.client.log_artifact(run.run_id, str(tmp_path / "note.txt"))
    assert store.read(run.run_id, "note.txt") == "hello"
    assert (root / "mlruns" / "artifacts" / run.run_id / "artifacts" / "note.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "note.txt"])  # and nothing else
    words = shlex.split(store.ui_text().splitlines()[0].removeprefix("recorded: "))
    assert words[-2:] == ["--backend-store-uri", store.uri]


@pytest.mark.parametrize(
    "uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"]
)
def test_a_store_in_memory_is_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="in memory only"):
        open_store(TrackingConfig(uri=uri), tmp_path)


@pytest.mark.parametrize(("scheme", "package"), [("postgresql+psycopg2", "psycopg2-binary"), ("mysql", "mysqlclient")])
def test_a_missing_database_driver_is_one_line(scheme: str, package: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"which is not installed.*pip install {package}") as error:
        open_store(TrackingConfig(uri=f"{scheme}://127.0.0.1/runs"), tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["folder", "text"])
def test_a_file_that_is_not_a_store_is_opened_once(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses_s: list[float] = []
    monkeypatch.setattr("time.sleep", pauses_s.append)  # between MLflow's ten attempts
    path = tmp_path / "store"
    path.mkdir() if kind == "folder" else path.write_text("no database" * 100, encoding="utf-8")
    for create in (True, False):
        with pytest.raises(StoreError, match="unable to open database file|file is not a database") as error:
            open_store(TrackingConfig(uri=f"sqlite:///{path}"), tmp_path, create=create)
        assert "\n" not in str(error.value)
    assert pauses_s == []


def run_with_note(store: Store, tmp_path: Path, text: str) -> str:
    """The id of a new run with one artifact."""
    (tmp_path / "note.txt").write_text(text, encoding="utf-8")
    with store.start("a run", None, {}) as run:
        store.client.log_artifact(run.run_id, str(tmp_path / "note.txt"))
    return run.run_id


@pytest.mark.parametrize("how", ["moved", "copied", "file copied"])
def test_artifacts_follow_a_store_that_was_moved_or_copied(how: str, store: Store, tmp_path: Path) -> None:
    old, new = tmp_path / "mlruns", tmp_path / "elsewhere"
    former = run_with_note(store, tmp_path, "former")
    if how == "moved":
        old.rename(new)
    elif how == "copied":
        shutil.copytree(old, new)
        (old / "artifacts" / former / "artifacts" / "note.txt").write_text("of the original", encoding="utf-8")
    else:
        new.mkdir()
        shutil.copy(old / "mlflow.db", new)
    second = open_store(TrackingConfig(uri=f"sqlite:///{new / 'mlflow.db'}", experiment="test"), tmp_path)
    assert second.read(former, "note.txt") == "former"
    later = run_with_note(second, tmp_path, "later")
    assert second.read(later, "note.txt") == "later"
    assert (new / "artifacts" / later / "artifacts" / "note.txt").exists()
    assert not (old / "artifacts" / later).exists()


def test_artifacts_in_a_folder_that_the_user_chose_stay_there(store_uri: str, tmp_path: Path) -> None:
    MlflowClient(store_uri).create_experiment("own", artifact_location=(tmp_path / "own" / "artifacts").as_uri())
    (tmp_path / "own").mkdir()
    store = open_store(TrackingConfig(uri=store_uri, experiment="own"), tmp_path)
    run_id = run_with_note(store, tmp_path, "own")
    assert (tmp_path / "own" / "artifacts" / run_id / "artifacts" / "note.txt").exists()


def test_two_stores_in_one_folder_share_neither_lock_nor_artifacts(store_uri: str, tmp_path: Path) -> None:
    folder = tmp_path / "mlruns"
    stores = []
    for name in ("a.db", "b.db", "mlflow.db"):
        if name != "mlflow.db":
            shutil.copy(folder / "mlflow.db", folder / name)
        stores.append(open_store(TrackingConfig(uri=f"sqlite:///{folder / name}", experiment="test"), tmp_path))
        assert (folder / f".{name}.creating.lock").stat().st_mode & 0o666 == 0o666  # every user may take it
    runs = [run_with_note(store, tmp_path, store.uri) for store in stores]
    for folder_name, run_id in zip(("a.db.artifacts", "b.db.artifacts", "artifacts"), runs, strict=True):
        assert [path.name for path in (folder / folder_name).iterdir()] == [run_id]


def test_a_store_whose_lock_cannot_be_taken_is_opened_if_it_has_tables(store_uri: str, tmp_path: Path) -> None:
    """Another user's lock may not be writable, or the folder may be read-only."""
    open_store(TrackingConfig(uri=store_uri, experiment="test"), tmp_path)
    lock = tmp_path / "mlruns" / ".mlflow.db.creating.lock"
    lock.unlink(missing_ok=True)
    with pytest.MonkeyPatch.context() as patch:

        def forbidden(*_: Any, **__: Any) -> None:
            raise PermissionError(errno.EACCES, "Permission denied", str(lock))

        patch.setattr("filelock.FileLock.acquire", forbidden)
        open_store(TrackingConfig(uri=store_uri, experiment="test"), tmp_path)
        with pytest.raises(StoreError, match="Permission denied"):
            open_store(TrackingConfig(uri=f"sqlite:///{tmp_path / 'new.db'}"), tmp_path)


def test_a_path_that_is_not_utf8_can_be_recorded(store: Store) -> None:
    with store.start("run", None, {"error": "no such file: \udcff.jpg"}) as run:
        run.params([("data.root", "/data/\udcff")])
    recorded = store.client.get_run(run.run_id).data
    assert (recorded.params["data.root"], recorded.tags["error"]) == ("/data/\\udcff", "no such file: \\udcff.jpg")

"""A tracking server that disappears while runs record: nothing is lost, and ``loaderlab sync`` sends what is left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loaderlab.cli import sync as command
from loaderlab.config import ExitCode, TrackingConfig
from loaderlab.tracking import open_store, outbox
from loaderlab.tracking.spool import PLACE, Spool
from loaderlab.tracking.store import PROCESS_KILLED, Store, Unreachable
from tests.running_server import RunningServer

LOSSES = [("train/loss", 1 / (step + 1), step) for step in range(2000)]


@pytest.fixture
def server(empty_store: Path, tmp_path: Path) -> Iterator[RunningServer]:
    shutil.copy(empty_store, tmp_path / "server.db")
    running = RunningServer(f"sqlite:///{tmp_path / 'server.db'}", tmp_path)
    running.start()
    yield running
    running.kill()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "PATIENCE_S", 0.0)


def opened(server: RunningServer, tmp_path: Path) -> Store:
    return open_store(TrackingConfig(server.address, "test"), tmp_path)


def synced(tmp_path: Path) -> int:
    return command.start(["--dir", str(tmp_path / PLACE)])


def test_a_run_whose_server_is_killed_is_complete_after_a_sync(
    server: RunningServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "files"
    (folder / "inner").mkdir(parents=True)
    (folder / "steps.csv").write_text("whole")
    (folder / "inner" / "note.txt").write_text("inner")
    with opened(server, tmp_path).start("a run", None, {"arm": "native"}) as run:
        run.params([("before", 1), ("secret", "postgresql://ann:password@db/runs")])
        run.tags({"kept": "yes", "removed": "yes"})
        server.kill()
        for name, value, step in LOSSES:
            run.metric(name, value, step)
        run.flush()
        run.params([(f"after.{number}", number) for number in range(120)])
        run.remove_tags(["removed"])
        run.artifacts(folder, "under")
    assert "records of run" in capfd.readouterr().err
    assert synced(tmp_path) == ExitCode.FAILED
    output = capfd.readouterr()
    assert "no tracking server answers there" in output.out
    assert "records could not be sent" in output.err
    server.start()
    store = opened(server, tmp_path)
    recorded = store.client.get_run(run.run_id)
    assert recorded.info.status == "RUNNING"  # not KILLED: its end waits in the spool
    assert synced(tmp_path) == ExitCode.SUCCESS
    assert "all sent: " in capfd.readouterr().out
    recorded = store.client.get_run(run.run_id)
    assert (recorded.info.status, "error" in recorded.data.tags) == ("FINISHED", False)
    assert recorded.data.params["secret"] == "postgresql://ann:***@db/runs"
    assert len(recorded.data.params) == 122
    assert {name for name in recorded.data.tags if name in ("kept", "removed")} == {"kept"}
    history = store.client.get_metric_history(run.run_id, "train/loss")
    assert [(point.key, point.value, point.step) for point in history] == LOSSES
    assert store.read(run.run_id, "under/steps.csv") == "whole"
    assert store.read(run.run_id, "under/inner/note.txt") == "inner"
    assert not (tmp_path / PLACE).exists()
    assert synced_again(tmp_path, capfd)


def synced_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> bool:
    """Whether a sync with nothing to send succeeds and says so."""
    (tmp_path / PLACE).mkdir(parents=True)
    return synced(tmp_path) == ExitCode.SUCCESS and "nothing to send" in capfd.readouterr().out


def test_a_replay_of_what_was_sent_changes_nothing(server: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "steps.csv").write_text("whole")
    store = opened(server, tmp_path)
    server.kill()
    with pytest.raises(Unreachable):
        opened(server, tmp_path)
    server.start()
    run = store.start("a run", None, {})
    server.kill()
    for name, value, step in LOSSES[:1500]:
        run.metric(name, value, step)
    run.params([("a", 1)])
    run.tags({"removed": "yes"})
    run.remove_tags(["removed"])
    run.artifacts(tmp_path / "files")
    run.end("FINISHED")
    shutil.copytree(tmp_path / PLACE, tmp_path / "copy")
    server.start()
    records = []
    for folder in (tmp_path / PLACE, tmp_path / "copy"):
        assert command.start(["--dir", str(folder)]) == ExitCode.SUCCESS
        recorded = store.client.get_run(run.run_id)
        history = store.client.get_metric_history(run.run_id, "train/loss")
        points = [(point.value, point.step, point.timestamp) for point in history]
        records.append((recorded.info.status, recorded.info.end_time, recorded.data.params, recorded.data.tags, points))
    assert records[0] == records[1]
    assert len(records[0][-1]) == 1500
    assert store.read(run.run_id, "steps.csv") == "whole"


KILLED = """
import os, signal, sys
from pathlib import Path
from loaderlab.config import TrackingConfig
from loaderlab.tracking import open_store
store = open_store(TrackingConfig(sys.argv[1], "test"), Path(sys.argv[2]))
run = store.start("a run", None, {})
print(run.run_id, flush=True)
sys.stdin.readline()
for step in range(2000):
    run.metric("train/loss", 1 / (step + 1), step)
    if step % 100 == 99:
        run.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_that_is_killed_after_its_server_keeps_everything_it_wrote(server: RunningServer, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, server.address, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    run_id = process.stdout.readline().strip()
    server.kill()
    process.communicate("go on\n", timeout=120)
    server.start()
    store = opened(server, tmp_path)  # it closes runs whose process is gone
    assert synced(tmp_path) == ExitCode.SUCCESS
    recorded = store.client.get_run(run_id)
    assert (recorded.info.status, recorded.data.tags["error"]) == ("KILLED", PROCESS_KILLED)
    history = store.client.get_metric_history(run_id, "train/loss")
    assert [(point.key, point.value, point.step) for point in history] == LOSSES


def test_a_wrong_mark_of_a_killed_run_is_corrected_by_its_own_end(server: RunningServer, tmp_path: Path) -> None:
    """Another checkout on this machine does not see the spool, and may have marked the run."""
    run = opened(server, tmp_path).start("a run", None, {"process.pid": "0"})
    server.kill()
    run.end("FINISHED")
    server.start()
    elsewhere = open_store(TrackingConfig(server.address, "test"), tmp_path / "elsewhere")
    assert elsewhere.client.get_run(run.run_id).info.status == "KILLED"
    assert synced(tmp_path) == ExitCode.SUCCESS
    recorded = elsewhere.client.get_run(run.run_id)
    assert (recorded.info.status, "error" in recorded.data.tags) == ("FINISHED", False)


def test_a_server_that_hangs_does_not_stop_a_run(server: RunningServer, tmp_path: Path) -> None:
    run = opened(server, tmp_path).start("a run", None, {})
    server.freeze()
    for name, value, step in LOSSES:
        run.metric(name, value, step)
        if step % 200 == 199:
            run.flush()  # MLflow's own client would wait for minutes in each of these
    run.end("FINISHED")
    assert Spool(tmp_path / PLACE, run.run_id).pending()
    server.thaw()
    assert synced(tmp_path) == ExitCode.SUCCESS
    history = opened(server, tmp_path).client.get_metric_history(run.run_id, "train/loss")
    assert [(point.key, point.value, point.step) for point in history] == LOSSES


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert synced(tmp_path) == ExitCode.FAILED
    assert "there is no such folder" in capfd.readouterr().err


def test_a_job_of_a_sweep_waits_for_a_server_that_is_being_restarted(server: RunningServer, tmp_path: Path) -> None:
    server.kill()
    program = "import sys; from pathlib import Path; from loaderlab.config import TrackingConfig; from loaderlab.tracking import open_store; print(open_store(TrackingConfig(sys.argv[1], 'test'), Path(sys.argv[2]), wait_s=120.0).experiment_id)"
    process = subprocess.Popen(
        [sys.executable, "-c", program, server.address, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith("waiting for http://127.0.0.1:")
    server.start()
    output, _ = process.communicate(timeout=120)
    assert output.strip().isdigit()

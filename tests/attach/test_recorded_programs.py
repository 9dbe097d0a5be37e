"""Programs that are recorded, with real processes: however they end, the run has what was measured, and they notice nothing."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from loaderlab.attach.recording import REPLACED
from loaderlab.metrics import STARVED_PCT as STARVED
from loaderlab.system.processes import process_identity
from tests.attach.recorded_program import STARVED_PCT

pytestmark = pytest.mark.slow
PATIENCE_S = 90.0


def rows_file(folder: Path, name: str = "my run") -> Path:
    return folder / f"{name} folder" / "rows"


@contextmanager
def program(
    store_uri: str, folder: Path, body: str, name: str = "my run", **variables: str
) -> Iterator[subprocess.Popen[str]]:
    """A recorded program in a process group of its own."""
    rows_file(folder, name).parent.mkdir()
    command = [sys.executable, "-m", "tests.attach.recorded_program", store_uri, str(rows_file(folder, name)), name]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,
        env={**os.environ, **variables},
    ) as process:
        assert process.stdin is not None
        process.stdin.write(body)
        process.stdin.close()
        process.stdin = None  # otherwise `communicate` flushes it
        yield process


def ended(store_uri: str, folder: Path, body: str, **variables: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a recorded program."""
    with program(store_uri, folder, body, **variables) as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


def runs(store_uri: str, experiment: str = "watched") -> list[Run]:
    client = MlflowClient(store_uri)
    entry = client.get_experiment_by_name(experiment)
    return [] if entry is None else list(client.search_runs([entry.experiment_id]))


def run_with(store_uri: str, *statuses: str) -> Run:
    """The only run, when it has one of these statuses and its process has written everything."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for run in runs(store_uri):
            alive = process_identity(int(run.data.tags["process.pid"])) == run.data.tags["process.started"]
            if run.info.status in statuses and alive == (run.info.status == "RUNNING"):
                return run
        time.sleep(0.1)
    raise AssertionError([(run.info.status, run.data.tags) for run in runs(store_uri)])


def assert_measured(run: Run) -> None:
    assert run.data.tags["verdict"] == "starved"
    assert run.data.metrics[STARVED] == pytest.approx(STARVED_PCT, abs=0.1)


@pytest.mark.parametrize(
    ("body", "code", "status", "error"),
    [
        ("print('out')", 0, "FINISHED", ""),
        ("print('out'); raise SystemExit(7)", 7, "FAILED", "exit code 7"),
        ("print('out'); {}['key']", 1, "FAILED", "KeyError: 'key'"),
    ],
)
def test_the_end_of_a_program(body: str, code: int, status: str, error: str, store_uri: str, tmp_path: Path) -> None:
    returned, out, err = ended(store_uri, tmp_path, body)
    assert (returned, out) == (code, "out\n")
    assert f"mlflow ui --backend-store-uri {store_uri}" in err
    run = run_with(store_uri, status)
    assert (run.info.run_name, run.data.tags.get("error", "")) == ("my run", error)
    assert_measured(run)
    assert not rows_file(tmp_path).parent.exists(), "the rows and the messages are removed"


@pytest.mark.parametrize(
    ("end", "error"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by a signal or by the system: recorded up to the last flush"),
        ("os.execv('/bin/sleep', ['sleep', '30'])", REPLACED),
    ],
)
def test_a_program_that_cannot_report_its_end_keeps_what_was_written(
    end: str, error: str, store_uri: str, tmp_path: Path
) -> None:
    """Its children live on, and one of them started without Python's hooks for forks."""
    body = f"""
import ctypes, os, signal, time
if os.fork() == 0:
    time.sleep(30)
    os._exit(0)
leaks = {"execv" not in end}  # a program that only replaces itself cannot be recognised by its pid
if leaks and ctypes.CDLL(None).fork() == 0:
    os.execv('/bin/sleep', ['sleep', '30'])
{end}
"""
    with program(store_uri, tmp_path, body) as process:
        run = run_with(store_uri, "FAILED", "FINISHED", "KILLED")
        os.killpg(process.pid, signal.SIGKILL)
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", error)
    assert_measured(run)


def test_signals_end_the_program_and_not_its_recording(store_uri: str, tmp_path: Path) -> None:
    with program(store_uri, tmp_path, "import time; time.sleep(600)") as process:
        pid = int(run_with(store_uri, "RUNNING").data.tags["process.pid"])
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            os.kill(pid, number)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "mlflow ui" in err
    run = run_with(store_uri, "KILLED")
    assert run.data.tags["error"] == "interrupted by Ctrl-C"
    assert_measured(run)


def test_the_program_has_no_additional_child_and_keeps_its_mlflow_run(store_uri: str, tmp_path: Path) -> None:
    own = f"sqlite:///{tmp_path}/own.db"
    body = f"""
import os
try:
    os.wait()
    print("a child")
except ChildProcessError:
    print("no child")
os.environ["MLFLOW_TRACKING_URI"] = "nonsense://"
import mlflow
mlflow.set_tracking_uri({own!r})
mlflow.set_experiment("theirs")
with mlflow.start_run(run_name="theirs"):
    mlflow.log_metric("loss", 0.5)
"""
    variables = {"MLFLOW_TRACKING_URI": own, "MLFLOW_EXPERIMENT_NAME": "theirs"}
    code, out, err = ended(store_uri, tmp_path, body, **variables)
    assert (code, out) == (0, "no child\n"), err
    assert_measured(run_with(store_uri, "FINISHED"))
    (theirs,) = runs(own, "theirs")
    assert (theirs.info.status, theirs.info.run_name, theirs.data.metrics) == ("FINISHED", "theirs", {"loss": 0.5})
    assert not runs(own, "watched")
    assert not runs(store_uri, "theirs")


def test_a_store_that_cannot_be_used_is_reported_before_the_program_starts(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database" * 100)
    code, out, err = ended(f"sqlite:///{tmp_path}/mlflow.db", tmp_path, "print('started')")
    assert (code, out) == (1, "")
    assert "file is not a database" in err


def test_a_store_that_is_lost_later_is_reported_and_the_measurement_kept(store_uri: str, tmp_path: Path) -> None:
    file = store_uri.removeprefix("sqlite:///")
    body = f"from pathlib import Path; Path({file!r}).write_bytes(b'no database' * 100); raise SystemExit(3)"
    code, _, err = ended(store_uri, tmp_path, body)
    assert code == 3
    assert "not recorded: " in err
    assert "file is not a database" in err
    assert rows_file(tmp_path).read_text()
    assert str(rows_file(tmp_path)) in err


def test_a_store_that_is_locked_for_some_seconds(store_uri: str, tmp_path: Path) -> None:
    with closing(sqlite3.connect(store_uri.removeprefix("sqlite:///"), isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with program(store_uri, tmp_path, "") as process:
            time.sleep(8)  # longer than it takes to open the store
            connection.execute("ROLLBACK")
            _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    assert_measured(run_with(store_uri, "FINISHED"))


def test_two_programs_record_into_one_new_store(tmp_path: Path) -> None:
    store_uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    with program(store_uri, tmp_path, "", "first") as first, program(store_uri, tmp_path, "", "second") as second:
        errors = [process.communicate(timeout=PATIENCE_S)[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), errors
    recorded = runs(store_uri)
    assert {(run.info.run_name, run.info.status) for run in recorded} == {
        ("first", "FINISHED"),
        ("second", "FINISHED"),
    }
    for run in recorded:
        assert_measured(run)

"""The recording process and its run, in this process: when it updates the run, how the run ends, and what the run contains."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import mlflow.artifacts
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from loaderlab.attach import recording
from loaderlab.attach.recording import REPLACED, WatchedProgram, in_options, recorded
from loaderlab.attach.run_record import KILLED, RunRecording, device_tags, outcome
from loaderlab.attach.sidecar import Ending, Order
from loaderlab.config import UserError
from loaderlab.metrics import STARVED_PCT as STARVED_PCT_METRIC
from loaderlab.tracking.records import NOT_FINITE
from tests.attach.recorded_program import STARVED_PCT, planted_rows


def order(store_uri: str, rows_file: Path, pid: int | None = None) -> Order:
    return Order("my run", store_uri, "watched", str(rows_file), "train.py", "train.py 'a b'", pid or os.getpid())


def only_run(store_uri: str) -> Run:
    client = MlflowClient(store_uri)
    experiment = client.get_experiment_by_name("watched")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def artifacts(run: Run) -> Path:
    return Path(mlflow.artifacts.download_artifacts(run.info.artifact_uri))


# ---- the run ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        (None, ("FAILED", KILLED)),
        (Ending(0), ("FINISHED", "")),
        (Ending(7), ("FAILED", "exit code 7")),
        (Ending(1, "ValueError: no more"), ("FAILED", "ValueError: no more")),
        (Ending(130, "interrupted by Ctrl-C", interrupted=True), ("KILLED", "interrupted by Ctrl-C")),
    ],
)
def test_status_and_error_of_a_run(ending: Ending | None, expected: tuple[str, str]) -> None:
    assert outcome(ending) == expected


def test_the_tags_of_a_device() -> None:
    assert device_tags("cuda:1 NVIDIA H200") == {"device.type": "cuda", "device.name": "NVIDIA H200"}
    assert device_tags("cpu a processor") == {"device.type": "cpu", "device.name": "a processor"}
    assert device_tags("cpu") == {"device.type": "cpu", "device.name": "cpu"}
    assert device_tags("") == {}


def test_a_run_is_updated_while_the_program_runs_and_completed_at_its_end(store_uri: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    run = RunRecording(order(store_uri, rows))
    run.begun()
    rows.write_text(planted_rows(40)[:-1])  # the last line is cut off
    run.update()
    assert only_run(store_uri).data.tags["verdict"] == "inconclusive"
    rows.write_text(planted_rows(40))
    run.update()
    so_far = only_run(store_uri)
    assert (so_far.info.status, so_far.data.tags["verdict"]) == ("RUNNING", "starved")
    rows.write_text(planted_rows(60))
    text = run.finish(Ending(0))
    assert text.startswith("recorded: ")
    assert "mlflow ui --backend-store-uri" in text
    final = only_run(store_uri)
    assert (final.info.status, final.info.run_name) == ("FINISHED", "my run")
    assert final.data.metrics[STARVED_PCT_METRIC] == pytest.approx(STARVED_PCT, abs=0.1)
    tags = final.data.tags
    assert {name: tags[name] for name in ("arm", "watch.script", "watch.command", "device.type", "device.name")} == {
        "arm": "my run",
        "watch.script": "train.py",
        "watch.command": "train.py 'a b'",
        "device.type": "cpu",
        "device.name": "a processor",
    }
    assert tags["mlflow.source.name"] == "loaderlab watch"
    assert "error" not in tags
    assert "train/loss" not in final.data.metrics
    folder = artifacts(final)
    assert {path.name for path in folder.iterdir()} == {"steps.csv", "breakdown.png", "report.md", "environment.json"}
    assert len((folder / "steps.csv").read_text().splitlines()) == 61
    assert "DataLoader (train.py:41)" in (folder / "report.md").read_text()
    environment = json.loads((folder / "environment.json").read_text())
    assert (environment["device"], environment["torch_threads"]) == ("a processor", 3)


def test_what_only_an_earlier_update_recorded_is_marked(store_uri: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    rows.write_text(planted_rows(60))
    run = RunRecording(order(store_uri, rows))
    run.update()
    assert NOT_FINITE not in only_run(store_uri).data.tags
    assert "advice" in only_run(store_uri).data.tags
    rows.write_text("")
    run.finish(Ending(0))
    tags = only_run(store_uri).data.tags
    assert (tags["verdict"], "advice" in tags, "device.name" in tags) == ("inconclusive", False, False)
    assert STARVED_PCT_METRIC in tags[NOT_FINITE].split(", ")


def test_a_program_that_ended_before_anything_was_measured(store_uri: str, tmp_path: Path) -> None:
    run = RunRecording(order(store_uri, tmp_path / "rows"))
    run.finish(Ending(1, "SyntaxError: invalid syntax"))
    recorded_run = only_run(store_uri)
    assert (recorded_run.info.status, recorded_run.data.tags["error"]) == ("FAILED", "SyntaxError: invalid syntax")
    assert recorded_run.data.tags["verdict"] == "inconclusive"
    assert {path.name for path in artifacts(recorded_run).iterdir()} == {"report.md", "environment.json"}


def test_rows_that_cannot_be_read_end_the_run_with_the_status_of_the_program(store_uri: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    rows.write_text("no JSON\n")
    with pytest.raises(UserError, match="the measurements cannot be judged: JSONDecodeError"):
        RunRecording(order(store_uri, rows)).finish(Ending(7))
    recorded_run = only_run(store_uri)
    assert (recorded_run.info.status, recorded_run.data.tags["error"]) == ("FAILED", "exit code 7")
    assert "JSONDecodeError" in recorded_run.data.tags["watch.problem"]


# ---- when it is updated ----------------------------------------------------------------------------------------------


class Program:
    """A program that ends after some pauses of the recording process."""

    ending = Ending(0)

    def __init__(self, num_pauses: int) -> None:
        self.ended, self.pauses, self._num = self, [], num_pauses  # type: ignore[var-annotated]

    def wait(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        return len(self.pauses) > self._num


class Recording:
    """A run whose methods raise the given errors, one per call."""

    def __init__(self, **errors: list[Exception]) -> None:
        self._errors, self.calls = errors, []  # type: ignore[var-annotated]

    def _call(self, name: str) -> str:
        self.calls.append(name)
        if self._errors.get(name):
            raise self._errors[name].pop(0)
        return "recorded: there"

    def begun(self) -> None:
        self._call("begun")

    def update(self) -> None:
        self._call("update")

    def finish(self, ending: Ending | None) -> str:
        return self._call("finish")


def record(program: Program, run: Recording) -> str:
    return recorded(cast(WatchedProgram, program), cast(RunRecording, run))


def test_it_updates_the_run_after_20_s_and_then_every_30_s() -> None:
    program, run = Program(3), Recording()
    assert record(program, run) == "recorded: there"
    assert program.pauses == [20, 30, 30, 30]
    assert run.calls == ["begun", "update", "update", "update", "finish"]


def test_long_updates_are_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 40.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock, 40.0))
    program = Program(1)
    record(program, Recording())
    assert program.pauses == [20, 200]


def test_a_message_names_options() -> None:
    message = "tracking.uri=x: no. Type for example: tracking.uri=sqlite:////tmp/mlflow.db"
    assert in_options(message) == "--uri=x: no. Type for example: --uri=sqlite:////tmp/mlflow.db"


def test_it_pauses_only_while_the_program_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    before, ended = signal.getsignal(signal.SIGPROF), threading.Event()
    try:
        recording.pause_while_running(ended)
        while not pauses:  # computing
            pass
        ended.set()
        pauses.clear()
        signal.raise_signal(signal.SIGPROF)
        assert not pauses
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def test_what_fails_while_the_program_runs_is_tried_again() -> None:
    run = Recording(begun=[UserError("locked")], update=[ValueError("no rows yet")])
    assert record(Program(2), run) == "recorded: there"
    assert run.calls == ["begun", "update", "update", "finish"]


def test_a_locked_store_is_tried_again_at_the_end_and_another_problem_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "RETRY_S", 0)
    run = Recording(finish=[UserError("the database is locked")] * 2)
    assert record(Program(0), run) == "recorded: there"
    assert run.calls == ["begun", *["finish"] * 3]
    with pytest.raises(UserError, match="disk is full"):
        record(Program(0), Recording(finish=[UserError("the disk is full")]))


# ---- the end of the program ------------------------------------------------------------------------------------------


Watched = Callable[..., tuple[WatchedProgram, socket.socket]]


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """Makes a watched program, and this process's end of the connection."""
    programs: list[WatchedProgram] = []
    sockets: list[socket.socket] = []

    def start(pid: int | None = None) -> tuple[WatchedProgram, socket.socket]:
        own, other = socket.socketpair()
        sockets.extend((own, other))
        own.sendall(json.dumps(asdict(order("sqlite:///x.db", tmp_path / "rows", pid))).encode() + b"\n")
        programs.append(WatchedProgram(other))
        return programs[-1], own

    yield start
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
    for program in programs:
        assert program.ended.wait(10)
        program.close()
    for each in sockets:
        each.close()


def test_the_end_that_a_program_reports(watched: Watched) -> None:
    program, own = watched()
    assert not program.ended.is_set()
    message = json.dumps(asdict(Ending(7, "é" * 50_000))).encode() + b"\n"
    for part in (message[:5], message[5:]):
        own.sendall(part)
    assert program.ended.wait(10)
    assert program.ending == Ending(7, "é" * 50_000)


@pytest.mark.parametrize("sent", [b"", b'{"exit_code": 0'])
@pytest.mark.parametrize("has_handles", [True, False])
def test_a_closed_connection_is_the_end(
    sent: bytes, has_handles: bool, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process goes on, as one that calls os.exec does."""
    monkeypatch.setattr(recording, "POLL_S", 0.01)
    if not has_handles:
        monkeypatch.setattr(recording, "process_handle", lambda pid: None)
    program, own = watched()
    own.sendall(sent)
    own.close()
    assert program.ended.wait(10)
    assert program.ending == Ending(1, REPLACED)


@pytest.mark.parametrize("has_handles", [True, False])
@pytest.mark.parametrize("reports", [True, False])
def test_a_killed_program_has_ended_even_if_the_connection_stays_open(
    reports: bool,
    has_handles: bool,
    watched: Watched,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not has_handles:  # a system without them, where it looks from time to time
        monkeypatch.setattr(recording, "process_handle", lambda pid: None)
        monkeypatch.setattr(recording, "POLL_S", 0.01)
    other_program: Any = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with other_program:
        program, own = watched(other_program.pid)
        assert not program.ended.wait(0.1)
        other_program.send_signal(signal.SIGSTOP)
        if reports:
            own.sendall(json.dumps(asdict(Ending(3))).encode() + b"\n")
        other_program.kill()
        assert program.ended.wait(10)
    assert program.ending == (Ending(3) if reports else None)


def test_a_program_that_ends_at_once() -> None:
    own, other = socket.socketpair()
    own.close()
    with other, pytest.raises(EOFError, match="before it said what to record"):
        WatchedProgram(other)


def test_it_ends_soon_after_the_program(monkeypatch: pytest.MonkeyPatch, watched: Watched, tmp_path: Path) -> None:
    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(recording, "LIMIT_S", 0)
    monkeypatch.setattr(os, "_exit", leave)
    program, own = watched()
    own.shutdown(socket.SHUT_WR)
    with pytest.raises(SystemExit):
        recording._end_in_time(program)
    answer = json.loads(own.recv(1000))
    assert not answer["recorded"]
    assert f"What was measured is in {tmp_path / 'rows'}" in answer["text"]

"""A job's process that does not end by itself, or ends too early. The children need no torch, so they start quickly."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from multiprocessing.connection import Connection

import psutil
import pytest

from loaderlab.cli.main import main
from loaderlab.config import SweepConfig, TrainConfig
from loaderlab.runs import launch
from loaderlab.runs.compared_loaders import ComparedLoader
from loaderlab.runs.job import Job, RunResult
from loaderlab.system import streams
from loaderlab.system.processes import OutOfTime, Terminated, sigterm_raises, time_limit_raises
from tests.conftest import compose

JOB = Job("a job", "an arm")


def ignores_signals(sending: Connection, _config: TrainConfig, _job: Job) -> None:
    """Hangs and ignores signals."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(120)
    sending.close()


def ends_at_its_limit(sending: Connection, _config: TrainConfig, _job: Job) -> None:
    """Ends at its time limit and sends a result."""
    time_limit_raises()
    try:
        time.sleep(120)
    except OutOfTime as end:
        sending.send((RunResult("an id", "KILLED", error=str(end)), []))


def loses_lines(sending: Connection, _config: TrainConfig, _job: Job) -> None:
    """Reports that it could not print some lines."""
    sending.send((RunResult("an id", "FINISHED"), ["No space left on device"]))


def kills_itself(_sending: Connection, _config: TrainConfig, _job: Job) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kills_itself_while_checking(_sending: Connection, _arms: dict[str, TrainConfig]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def running_children() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children()
        if child.name().startswith("python") and "spawn_main" in " ".join(child.cmdline())
    ]


def limited(minutes: float | None) -> TrainConfig:
    return replace(compose([]), sweep=SweepConfig(job_minutes=minutes))


def test_a_job_that_takes_too_long_is_asked_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_child", ends_at_its_limit)
    result = launch.launch(limited(0.1), JOB)
    assert (result.status, result.error) == ("KILLED", "took longer than sweep.job_minutes=0.1")
    assert running_children() == []


def test_lines_that_a_job_lost_are_reported_once_by_the_launching_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(streams, "_lost", [])
    monkeypatch.setattr(launch, "_child", loses_lines)
    for _ in range(2):
        assert launch.launch(limited(None), JOB).status == "FINISHED"
    assert not streams.flushed()
    assert capsys.readouterr().err == (
        "error: stdout cannot be written: No space left on device. Runs that were recorded are complete\n"
    )


def test_a_job_that_ignores_signals_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_child", ignores_signals)
    monkeypatch.setattr(launch, "RECORD_S", 0.2)
    result = launch.launch(limited(0.08), JOB)
    assert (result.status, result.error) == ("KILLED", "took longer than sweep.job_minutes=0.08")
    assert running_children() == []


def test_a_second_ctrl_c_ends_the_job_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_child", ignores_signals)

    def interrupt_twice() -> None:
        for _ in range(2):
            time.sleep(1.0)
            os.kill(os.getpid(), signal.SIGINT)

    started = time.monotonic()
    threading.Thread(target=interrupt_twice).start()
    with pytest.raises(KeyboardInterrupt):
        launch.launch(limited(None), JOB)
    assert time.monotonic() - started < launch.RECORD_S  # it did not wait for a record
    assert running_children() == []


def test_sigterm_ends_the_job_and_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "_child", ends_at_its_limit)
    monkeypatch.setattr(launch, "GRACE_S", 0.2)

    def job(_config: TrainConfig, _overrides: list[str]) -> None:
        with sigterm_raises():
            threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
            launch.launch(limited(None), JOB)

    assert main("train", TrainConfig, job, []) == Terminated.exit_code == 143
    assert "interrupted: everything recorded so far is kept" in capsys.readouterr().err
    assert running_children() == []


def test_a_killed_process_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_child", kills_itself)
    result = launch.launch(limited(None), JOB)
    assert (result.status, result.error) == ("FAILED", "its process was ended by SIGKILL (usual cause: out of memory)")


@pytest.mark.parametrize(
    ("exit_code", "message"),
    [
        (-signal.SIGBUS, "its process was ended by SIGBUS (usual cause: /dev/shm is full)"),
        (-signal.SIGSEGV, "its process was ended by SIGSEGV"),
        (-40, "its process was ended by signal 40"),  # has no name
        (3, "its process ended with exit code 3 and returned no result"),
    ],
)
def test_how_a_process_died(exit_code: int, message: str) -> None:
    assert launch._how_it_died(exit_code) == message


def test_a_killed_parity_check_leaves_loaders_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_checking_child", kills_itself_while_checking)
    results = launch.check_parity([ComparedLoader("a key", "loader=dali", compose([]))], None)
    assert results == {
        "a key": {
            "loader": "loader=dali",
            "status": "not checked: its process was ended by SIGKILL (usual cause: out of memory)",
        }
    }

"""A job's process that does not end by itself, or ends too early. Its children need no torch: quick to start."""

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


def deaf(sending: Connection, _config: TrainConfig, _job: Job) -> None:
    """Hangs, and hears nothing."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(120)
    sending.close()


def obedient(sending: Connection, _config: TrainConfig, _job: Job) -> None:
    """Ends when its time is over, and says how."""
    time_limit_raises()
    try:
        time.sleep(120)
    except OutOfTime as end:
        sending.send((RunResult("an id", "KILLED", error=str(end)), []))


def unheard(sending: Connection, _config: TrainConfig, _job: Job) -> None:
    """Could not print what it had to say."""
    sending.send((RunResult("an id", "FINISHED"), ["No space left on device"]))


def killed(_sending: Connection, _config: TrainConfig, _job: Job) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_checking(_sending: Connection, _arms: dict[str, TrainConfig]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def alive() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children()
        if child.name().startswith("python") and "spawn_main" in " ".join(child.cmdline())
    ]


def limited(minutes: float | None) -> TrainConfig:
    return replace(compose([]), sweep=SweepConfig(job_minutes=minutes))


def test_a_job_that_takes_too_long_is_asked_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_child", obedient)
    result = launch.launch(limited(0.1), JOB)
    assert (result.status, result.error) == ("KILLED", "took longer than sweep.job_minutes=0.1")
    assert alive() == []


def test_lines_that_a_job_lost_are_reported_once_by_the_launching_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(streams, "_lost", [])
    monkeypatch.setattr(launch, "_child", unheard)
    for _ in range(2):
        assert launch.launch(limited(None), JOB).status == "FINISHED"
    assert not streams.flushed()
    assert capsys.readouterr().err == (
        "error: stdout cannot be written: No space left on device. Runs that were recorded are complete\n"
    )


def test_one_that_does_not_listen_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_child", deaf)
    monkeypatch.setattr(launch, "RECORD_S", 0.2)
    result = launch.launch(limited(0.08), JOB)
    assert (result.status, result.error) == ("KILLED", "took longer than sweep.job_minutes=0.08")
    assert alive() == []


def test_a_second_ctrl_c_ends_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_child", deaf)

    def twice() -> None:
        for _ in range(2):
            time.sleep(1.0)
            os.kill(os.getpid(), signal.SIGINT)

    began = time.monotonic()
    threading.Thread(target=twice).start()
    with pytest.raises(KeyboardInterrupt):
        launch.launch(limited(None), JOB)
    assert time.monotonic() - began < launch.RECORD_S  # it did not wait for a record
    assert alive() == []


def test_sigterm_ends_the_job_too_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "_child", obedient)
    monkeypatch.setattr(launch, "GRACE_S", 0.2)

    def job(_config: TrainConfig, _overrides: list[str]) -> None:
        with sigterm_raises():
            threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
            launch.launch(limited(None), JOB)

    assert main("train", TrainConfig, job, []) == Terminated.exit_code == 143
    assert "interrupted: what was recorded before is kept" in capsys.readouterr().err
    assert alive() == []


def test_a_process_that_was_killed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_child", killed)
    result = launch.launch(limited(None), JOB)
    assert (result.status, result.error) == ("FAILED", "its process was ended by SIGKILL (usual cause: out of memory)")


@pytest.mark.parametrize(
    ("exit_code", "says"),
    [
        (-signal.SIGBUS, "its process was ended by SIGBUS (usual cause: /dev/shm is full)"),
        (-signal.SIGSEGV, "its process was ended by SIGSEGV"),
        (-40, "its process was ended by signal 40"),  # has no name
        (3, "its process ended with exit code 3 and without a result"),
    ],
)
def test_how_a_process_died(exit_code: int, says: str) -> None:
    assert launch._how_it_died(exit_code) == says


def test_a_check_of_loaders_that_was_killed_costs_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_checking_child", killed_checking)
    found = launch.check_parity([ComparedLoader("a key", "loader=dali", compose([]))], None)
    assert found == {
        "a key": {
            "loader": "loader=dali",
            "status": "not checked: its process was ended by SIGKILL (usual cause: out of memory)",
        }
    }

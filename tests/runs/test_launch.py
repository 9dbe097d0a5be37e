"""A job's process that does not end by itself, or ends too early. The children need no torch, so they start quickly.

Every test runs with a spawned process and with one that is forked from a template, which imports only a small module here.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import psutil
import pytest

from loaderlab.cli.main import main
from loaderlab.config import SPAWN, TEMPLATE, SweepConfig, TrainConfig
from loaderlab.runs import launch
from loaderlab.runs.compared_loaders import ComparedLoader
from loaderlab.runs.job import Job, RunResult
from loaderlab.runs.job_start import JobStarter
from loaderlab.system import streams
from loaderlab.system.job_process import JobProcess
from loaderlab.system.processes import OutOfTime, Terminated, sigterm_raises, time_limit_raises
from tests.conftest import compose

JOB = Job("a job", "an arm")


def ignores_signals(sending: Connection, _config: TrainConfig, _job: Job, _quietly: bool) -> None:
    """Hangs and ignores signals."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(120)
    sending.close()


def ends_at_its_limit(sending: Connection, _config: TrainConfig, _job: Job, _quietly: bool) -> None:
    """Ends at its time limit and sends a result."""
    time_limit_raises()
    try:
        time.sleep(120)
    except OutOfTime as end:
        sending.send((RunResult("an id", "KILLED", error=str(end)), []))


def loses_lines(sending: Connection, _config: TrainConfig, _job: Job, _quietly: bool) -> None:
    """Reports that it could not print some lines."""
    sending.send((RunResult("an id", "FINISHED"), ["No space left on device"]))


def kills_itself(_sending: Connection, _config: TrainConfig, _job: Job, _quietly: bool) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kills_itself_while_checking(_sending: Connection, _arms: dict[str, TrainConfig], _quietly: bool) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def running_children() -> list[int]:
    """The pids of the jobs that still run: spawned by this process, or forked from its template."""
    return [child.pid for child in psutil.Process().children(recursive=True) if _is_job(child)]


def _is_job(child: psutil.Process) -> bool:
    try:
        command = " ".join(child.cmdline())
        return "spawn_main" in command or ("forkserver" in command and child.ppid() != os.getpid())
    except psutil.Error:  # it has ended
        return False


@pytest.fixture(params=[SPAWN, TEMPLATE])
def run_job(request: pytest.FixtureRequest) -> Iterator[Callable[[TrainConfig], RunResult]]:
    """Launches a job; it must be started as requested."""
    warnings: list[str] = []
    starter = JobStarter(warnings.append, preload="colorsys")
    yield lambda config: launch.launch(config, JOB, starter, request.param)
    assert (starter.template_pid is not None) == (request.param == TEMPLATE)
    starter.renew()
    assert warnings == []
    assert running_children() == []


Run = Callable[[TrainConfig], RunResult]


def limited(minutes: float | None) -> TrainConfig:
    return replace(compose([]), sweep=SweepConfig(job_minutes=minutes))


def test_a_job_that_takes_too_long_is_asked_to_end(run_job: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_child", ends_at_its_limit)
    result = run_job(limited(0.1))
    assert (result.status, result.error) == ("KILLED", "took longer than sweep.job_minutes=0.1")
    assert running_children() == []


def test_lines_that_a_job_lost_are_reported_once_by_the_launching_process(
    run_job: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(streams, "_lost", [])
    monkeypatch.setattr(launch, "_child", loses_lines)
    for _ in range(2):
        assert run_job(limited(None)).status == "FINISHED"
    assert not streams.flushed()
    assert capsys.readouterr().err == (
        "error: stdout cannot be written: No space left on device. Runs that were recorded are complete\n"
    )


def test_a_job_that_ignores_signals_is_killed(run_job: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_child", ignores_signals)
    monkeypatch.setattr(launch, "RECORD_S", 0.2)
    result = run_job(limited(0.08))
    assert (result.status, result.error) == ("KILLED", "took longer than sweep.job_minutes=0.08")
    assert running_children() == []


@pytest.mark.parametrize(("limit", "text"), [("tune.minutes", "tune.minutes=0.001"), ("", "0.001 minutes")])
def test_the_limit_of_a_process_is_named(limit: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(JobProcess):
        def __init__(self) -> None:
            pass

        def send(self, number: int) -> None:
            pass

        def kill(self) -> None:
            pass

        def ended(self, seconds: float | None = None) -> bool:
            return True

        def close(self) -> None:
            pass

    monkeypatch.setattr(launch, "RECORD_S", 0.0)
    receiving, sending = Pipe(duplex=False)
    monkeypatch.setattr(JobStarter, "start", lambda *_: (Hanging(), receiving))
    launched = launch._Launch(JobStarter(pytest.fail), SPAWN, ignores_signals, (), "hanging")
    assert launched.wait(0.001, limit) == (None, f"took longer than {text}", True)
    sending.close()


def test_a_second_ctrl_c_ends_the_job_at_once(run_job: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_child", ignores_signals)

    def interrupt_twice() -> None:
        for _ in range(2):
            time.sleep(1.0)
            os.kill(os.getpid(), signal.SIGINT)

    started = time.monotonic()
    threading.Thread(target=interrupt_twice).start()
    with pytest.raises(KeyboardInterrupt):
        run_job(limited(None))
    assert time.monotonic() - started < launch.RECORD_S  # it did not wait for a record
    assert running_children() == []


def test_sigterm_ends_the_job_and_is_reported(
    run_job: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "_child", ends_at_its_limit)
    monkeypatch.setattr(launch, "GRACE_S", 0.2)

    def job(_config: TrainConfig, _overrides: list[str]) -> None:
        with sigterm_raises():
            threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
            run_job(limited(None))

    assert main("train", TrainConfig, job, []) == Terminated.exit_code == 143
    assert "interrupted: everything recorded so far is kept" in capsys.readouterr().err
    assert running_children() == []


def test_a_killed_process_is_reported(run_job: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_child", kills_itself)
    result = run_job(limited(None))
    assert (result.status, result.error) == ("FAILED", "its process was ended by SIGKILL (usual cause: out of memory)")


@pytest.mark.parametrize(
    ("exit_code", "message"),
    [
        (-signal.SIGBUS, "its process was ended by SIGBUS (usual cause: /dev/shm is full)"),
        (-signal.SIGSEGV, "its process was ended by SIGSEGV"),
        (-40, "its process was ended by signal 40"),  # has no name
        (3, "its process ended with exit code 3 and returned no result"),
        (None, "its process ended and returned no result; its exit code is unknown, because its template had ended"),
    ],
)
def test_how_a_process_died(exit_code: int | None, message: str) -> None:
    class Ended(JobProcess):
        def __init__(self) -> None:
            pass

        def exit_code(self) -> int | None:
            return exit_code

    assert launch._how_it_died(Ended()) == message


def test_a_killed_parity_check_leaves_loaders_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_checking_child", kills_itself_while_checking)
    starter = JobStarter(pytest.fail)
    results = launch.check_parity([ComparedLoader("a key", "loader=dali", compose([]))], None, starter, SPAWN)
    assert results == {
        "a key": {
            "loader": "loader=dali",
            "status": "not checked: its process was ended by SIGKILL (usual cause: out of memory)",
        }
    }

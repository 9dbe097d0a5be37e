"""What a user sees of a job of several ranks in a Slurm that the test plays. No Slurm is needed."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loaderlab.config import SlurmLaunch, TrainConfig
from loaderlab.runs import elastic, slurm_entry, slurm_launch
from loaderlab.runs.job import Job, RunResult
from loaderlab.runs.slurm_submit import Submitter
from loaderlab.system import slurm, slurm_task
from loaderlab.system.slurm import JobState
from loaderlab.system.terminal import Terminal

JOB = Job("a job", "a job")
FINISHED = RunResult("run", "FINISHED")
OTHER_NODE = RunResult("", "FINISHED")


class PlayedJob:
    """A Slurm job with two tasks. Each event happens after the launching process has looked at the output once more.

    Args:
        folder: of the job's output.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: Iterator[Callable[[], Any]] = iter(())
        self.state = JobState("RUNNING", nodes="n[1-2]")

    def submit(self, *_: Any, **__: Any) -> str:
        return "7"

    def prints(self, task: int, text: str) -> None:
        with (self.folder / f"7_{task}_log.out").open("a", encoding="utf-8") as file:
            file.write(text)

    def returns(self, task: int, result: RunResult) -> None:
        (self.folder / f"7_{task}_result.pkl").write_bytes(pickle.dumps(("success", result)))

    def ends(self, state: str) -> None:
        self.state = JobState(state, nodes="n[1-2]")

    def next_event(self, *_: Any) -> None:
        next(self.events, lambda: None)()


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlayedJob:
    job = PlayedJob(tmp_path)
    read_result = Submitter.result

    def result(self: Submitter, job_id: str, task: int = 0) -> Any:
        if task == 0:  # between a look at the output and the look at the results
            job.next_event()
        return read_result(self, job_id, task)

    monkeypatch.setattr(slurm_launch, "check_slurm", lambda *_: None)
    monkeypatch.setattr(slurm_launch, "LOOK_S", 0.0)
    monkeypatch.setattr(slurm_launch, "QUERY_S", 0.0)
    monkeypatch.setattr(slurm_launch, "GRACE_S", 0.0)
    monkeypatch.setattr(Submitter, "submit", job.submit)
    monkeypatch.setattr(Submitter, "result", result)
    monkeypatch.setattr(slurm, "states_of", lambda _ids: {"7": job.state})
    return job


@pytest.fixture
def config(make_config: Callable[..., TrainConfig], tmp_path: Path) -> TrainConfig:
    return make_config("launch=slurm", "launch.num_nodes=2", f"launch.folder={tmp_path}")


def test_all_output_is_printed_before_the_command_ends(
    played: PlayedJob, config: TrainConfig, terminal: Terminal
) -> None:
    def last_lines_and_results() -> None:
        played.prints(0, "g 4/4\nthe verdict\nuser code ends without a new line")
        played.returns(0, FINISHED)
        played.returns(1, OTHER_NODE)

    played.events = iter(
        [
            lambda: played.prints(0, "submitit INFO starts\nboth nodes\n"),
            lambda: played.prints(1, "both nodes\n"),
            lambda: played.prints(0, "trainin"),  # half a line
            last_lines_and_results,
        ]
    )
    assert slurm_launch.run_on_slurm(config, JOB, terminal) == FINISHED
    expected = ["both nodes", "training 4/4", "the verdict", "user code ends without a new line"]
    assert terminal.said[1:] == expected


def test_the_output_of_a_job_without_a_result_is_printed(
    played: PlayedJob, config: TrainConfig, terminal: Terminal
) -> None:
    def is_killed() -> None:
        played.prints(0, "training 3/4\nthe last wor")
        played.ends("NODE_FAIL")

    played.events = iter([is_killed])
    result = slurm_launch.run_on_slurm(config, JOB, terminal)
    assert (result.status, terminal.said[1:]) == ("FAILED", ["training 3/4", "the last wor"])


@pytest.mark.parametrize("returned", [OTHER_NODE, RunResult("", "FAILED", error="n1 stopped answering")])
def test_a_node_that_finished_does_not_speak_for_the_node_of_rank_0(
    returned: RunResult, played: PlayedJob, config: TrainConfig, terminal: Terminal
) -> None:
    """Rank 0 died before it recorded the end."""

    def ends() -> None:
        played.returns(1, returned)
        played.ends("NODE_FAIL")

    played.events = iter([ends])
    result = slurm_launch.run_on_slurm(config, JOB, terminal)
    assert result.status == "FAILED"
    assert result.error.startswith(returned.error or "its node failed")


def test_ctrl_c_prints_the_rest_of_the_output(
    played: PlayedJob, config: TrainConfig, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupts() -> None:
        played.prints(0, "training 1/4\ntrain")
        raise KeyboardInterrupt

    def cancelled(command: list[str]) -> str:
        assert command == ["scancel", "7"]
        played.prints(0, "ing 2/4\nthe verdict\n")
        played.returns(0, FINISHED)
        played.returns(1, OTHER_NODE)
        return ""

    played.events = iter([interrupts])
    monkeypatch.setattr(slurm, "ask", cancelled)
    with pytest.raises(KeyboardInterrupt):
        slurm_launch.run_on_slurm(config, JOB, terminal)
    assert terminal.said[1:] == ["cancelling Slurm job 7", "training 1/4", "training 2/4", "the verdict"]


def test_the_output_of_a_node_is_on_the_disk_before_its_result(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the launching host could see the result on a shared file system before the last lines."""
    stored: list[str] = []

    def run_ranks(*_: Any) -> RunResult:
        print("the last line")
        return FINISHED

    with (tmp_path / "out.txt").open("w", encoding="utf-8") as stdout, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        patch.setattr(os, "fsync", lambda _number: stored.append((tmp_path / "out.txt").read_text(encoding="utf-8")))
        patch.setattr(elastic, "run_ranks", run_ranks)
        patch.setattr(slurm_task, "endpoint", lambda: "n1:12007")
        assert slurm_entry.run_node(config, JOB) == FINISHED
    assert stored[0] == "the last line\n"


@pytest.mark.parametrize(("age_s", "left_s"), [(0.0, 45.0), (30.0, 15.0), (50.0, slurm_entry.LEAST_S)])
def test_a_slow_start_leaves_time_for_the_record(
    age_s: float, left_s: float, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With launch.minutes=1, Slurm ends a process 60 s after its start."""
    limits: list[float] = []
    assert isinstance(config.launch, SlurmLaunch)
    config.launch.minutes = 1
    monkeypatch.setattr(slurm_entry, "process_age_s", lambda: age_s)
    monkeypatch.setattr(signal, "setitimer", lambda _which, seconds: limits.append(seconds))
    monkeypatch.setattr(signal, "signal", lambda *_: signal.SIG_DFL)
    monkeypatch.setattr(slurm_task, "endpoint", lambda: "n1:12007")
    monkeypatch.setattr(elastic, "run_ranks", lambda *_: FINISHED)
    assert slurm_entry.run_node(config, JOB) == FINISHED
    assert limits == [left_s, 0.0]

"""Which ends of a command count as a complete record or one clear line; the exit code alone is not enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.harness.record_check import StoredRun, missing_in, missing_in_command, stored_runs
from benchmarks.hostile_conditions import CONDITIONS, Ended, problem_in
from loaderlab.config import TrainConfig
from loaderlab.runs import job, run
from loaderlab.system.terminal import Terminal

USUAL, FULL = CONDITIONS["usual"], CONDITIONS["full_stdout"]
LINE = "error: stdout cannot be written: No space left on device\n"
COMPLETE = StoredRun("a", "FINISHED", 3, {"verdict": "fed"}, ("config.yaml", "steps.csv"))
PARENT = StoredRun("p", "FINISHED", 0, {"sweep": "parent"}, ())
CHILDREN = [replace(COMPLETE, run_id=name, tags={"verdict": "fed", "mlflow.parentRunId": "p"}) for name in ("b", "c")]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, ""),
        ({"status": "RUNNING"}, "its status is RUNNING"),
        ({"num_metrics": 0}, "no metrics"),
        ({"tags": {}}, "no verdict"),
        ({"artifacts": ("config.yaml",)}, "no steps.csv"),
        ({"artifacts": ("steps.csv",)}, "no config.yaml"),
    ],
)
def test_incomplete_runs(change: dict[str, object], problem: str) -> None:
    assert missing_in(replace(COMPLETE, **change)) == problem  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("command", "runs", "complete"),
    [
        ("train", [COMPLETE], True),
        ("train", [], False),
        ("sweep", [PARENT, *CHILDREN], True),
        ("sweep", [PARENT, CHILDREN[0]], False),
        ("sweep", CHILDREN, False),
        ("sweep", [replace(PARENT, status="RUNNING"), *CHILDREN], False),
        ("sweep", [PARENT, CHILDREN[0], COMPLETE], False),
        ("watch", [replace(COMPLETE, artifacts=("steps.csv",))], True),
        ("trace", [], True),
        ("compare", [COMPLETE], False),
    ],
)
def test_incomplete_records_of_commands(command: str, runs: list[StoredRun], complete: bool) -> None:
    assert (missing_in_command(command, runs) == "") == complete


@pytest.mark.parametrize(
    ("ended", "runs", "problem"),
    [
        (Ended(0, "verdict", ""), [COMPLETE], ""),
        (Ended(0, "verdict", ""), [], "0 runs"),
        (Ended(0, "verdict", "a warning\n"), [COMPLETE], "on stderr: a warning"),
        (Ended(0, "", ""), [COMPLETE], "nothing on stdout"),
        (Ended(1, "", "\nerror: no\n"), [], ""),
        (Ended(1, "", ""), [COMPLETE], "0 lines"),
        (Ended(1, "", "error: no\nerror: again\n"), [], "2 lines"),
        (Ended(1, "", "Killed\n"), [], "1 lines"),
        (Ended(1, "", "error: no\n"), [replace(COMPLETE, status="RUNNING")], "still RUNNING"),
        (Ended(1, "", "Traceback (most recent call last)\nerror: no\n"), [], "traceback"),
        (Ended(None, "", ""), [], "did not end"),
    ],
)
def test_wrong_ends_of_commands(ended: Ended, runs: list[StoredRun], problem: str) -> None:
    message = problem_in(USUAL, "train", ended, runs)
    assert problem in message
    assert bool(message) == bool(problem)


def test_a_full_stdout_does_not_excuse_a_missing_record() -> None:
    assert problem_in(FULL, "train", Ended(1, "", LINE), [COMPLETE]) == ""
    assert "0 runs" in problem_in(FULL, "train", Ended(1, "", LINE), [])
    assert "no verdict" in problem_in(FULL, "train", Ended(1, "", LINE), [replace(COMPLETE, tags={})])
    assert "3 lines" in problem_in(FULL, "sweep", Ended(1, "", 3 * LINE), [PARENT, *CHILDREN])


def test_a_real_run_is_complete(make_config: Callable[..., TrainConfig], terminal: Terminal) -> None:
    config = make_config(
        "data=vectors", "model=feedforward", "data.num_samples=60", "loader.num_workers=0", "steps=20", "device=cpu"
    )
    run.run(config, job.single(config, []), terminal)
    file = Path(config.tracking.uri.removeprefix("sqlite:///"))
    (stored,) = stored_runs(file)
    assert missing_in(stored) == ""
    assert stored_runs(file, {stored.run_id}) == []
    assert stored_runs(file.with_name("missing.db")) == []

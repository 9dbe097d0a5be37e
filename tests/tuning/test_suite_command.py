"""`loaderlab tune` from the command line to its record, with a loader that sleeps and an emulated accelerator."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch.utils.data import Dataset

from loaderlab.config import PROJECT, TrackingConfig
from loaderlab.tracking import open_store
from loaderlab.tracking.records import RunRecord

NAME = "of_a_test"
SLEEPY = (
    "data=custom",
    f"data.target={__name__}:Sleepy",
    "batch_size=8",
    "accelerator=custom",
    "accelerator.step_ms=20",
    "loader.num_workers=3",
    "tune.backends=native",
    f"tune.name={NAME}",
)  # a sample takes 4 ms and a batch 32 ms: two workers feed a step of 20 ms, and one does not


class Sleepy(Dataset[Any]):
    classes = ("a", "b")

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken

    def __len__(self) -> int:
        return 4000

    def __getitem__(self, index: int) -> Any:
        if self.broken and index > 0:
            raise OSError("the disk is gone")
        time.sleep(0.004)
        return torch.full((16,), float(index)), index % 2


def command(store_uri: str, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "experiments.tune", *SLEEPY, f"tracking.uri={store_uri}", *overrides]


def records(store_uri: str) -> tuple[RunRecord, list[RunRecord]]:
    """The run of the tuner, and its trials."""
    runs = open_store(TrackingConfig(uri=store_uri), PROJECT).runs()
    (parent,) = [run for run in runs if run.tags.get("tune") == "parent"]
    return parent, [run for run in runs if run.parent_id == parent.run_id]


@pytest.fixture
def tuned() -> Iterator[Path]:
    path = PROJECT / "mlruns" / "tuned" / f"{NAME}.yaml"
    yield path
    path.unlink(missing_ok=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_cheapest_settings_are_chosen_and_recorded(store_uri: str, tuned: Path) -> None:
    arguments = command(store_uri, "tune.minutes=6")
    done = subprocess.run(arguments, cwd=PROJECT, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout + done.stderr
    chosen, certificate, snippet = done.stdout.splitlines()[-3:]
    assert chosen.startswith("chosen: loader.num_workers=2 loader.prefetch_factor="), done.stdout
    assert certificate.startswith("certificate: with 2 workers")
    assert snippet.startswith("DataLoader(dataset, batch_size=8, num_workers=2")
    parent, trials = records(store_uri)
    assert (parent.status, parent.tags["tune.chosen"]) == ("FINISHED", chosen.removeprefix("chosen: "))
    assert {run.status for run in trials} == {"FINISHED"}
    assert {run.tags["tune.round"] for run in trials} == {"0", "1", "2", "3"}
    assert all(run.figures["time/window_s"] > 1 for run in trials)
    overrides = [f"+tuned={NAME}", *SLEEPY[:5], "steps=2", "measure=bare", f"tracking.uri={store_uri}"]
    used = subprocess.run(
        [sys.executable, "-m", "experiments.train", *overrides],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert used.returncode == 0, used.stdout + used.stderr
    assert "num_workers 2" in used.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_during_a_trial_keeps_what_is_known(
    number: signal.Signals, code: int, store_uri: str, tuned: Path
) -> None:
    process = subprocess.Popen(
        command(store_uri),
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    while not any(line.startswith("trial 2") for line in lines):
        lines.append(process.stdout.readline())
        assert lines[-1], "it ended before its second trial"
    while "RUNNING" not in {run.status for run in records(store_uri)[1]}:  # a sleep could outlast the trial
        assert process.poll() is None
        time.sleep(0.1)
    descendants = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, number)
    output, errors = process.communicate(timeout=150)
    assert process.returncode == code, output + errors
    assert "chosen: loader.num_workers=" in output
    assert "interrupted: everything recorded so far is kept" in errors
    _, alive = psutil.wait_procs(descendants, timeout=20)
    assert not alive
    parent, trials = records(store_uri)
    assert (parent.status, parent.tags["tune.grade"]) == ("KILLED", "not confirmed")
    assert [run.status for run in trials] == ["FINISHED", "KILLED"]
    assert not tuned.exists()  # the answer is not confirmed
    assert "not saved, because it is not confirmed. To use it: " in output


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_that_fails_is_explained(store_uri: str) -> None:
    done = subprocess.run(
        command(store_uri, "+data.options.broken=true"), cwd=PROJECT, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 1
    assert (
        "nothing was tuned, because a run with the settings now fails: data=custom: the dataset failed" in done.stderr
    )
    assert "Traceback" not in done.stdout + done.stderr
    parent, trials = records(store_uri)
    assert (parent.status, [trial.status for trial in trials]) == ("FAILED", ["FAILED"] * 3)  # with 3 workers, 1 and 0

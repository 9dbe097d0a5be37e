"""A run that ends when its measured window is long enough, and epochs of few steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from loaderlab.config import TrainConfig, UserError
from loaderlab.runs.job import RunResult, single
from loaderlab.runs.run import run
from loaderlab.system.terminal import Terminal

Make = Callable[..., TrainConfig]
TINY = ("loader.num_workers=0", "evaluate=false", "device=cpu")


def go(config: TrainConfig, terminal: Terminal) -> RunResult:
    return run(config, single(config, []), terminal)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_it_ends_when_the_window_is_long_enough(schedule: str, make_config: Make, terminal: Terminal) -> None:
    config = make_config(*TINY, "measure.seconds=0.2", f"optimizer.schedule={schedule}")
    result = go(config, terminal)
    assert result.status == "FINISHED"
    assert result.figures["time/window_s"] >= 0.15  # the loop counted 0.2 s with another reading of the clock


def test_it_has_at_least_15_measured_steps(make_config: Make, terminal: Terminal) -> None:
    """The time is over after the first measured step."""
    result = go(make_config(*TINY, "measure.seconds=1e-9", "measure.epoch_steps=4", "measure.warmup_steps=0"), terminal)
    steps = result.figures["time/window_s"] * 1e3 / result.figures["time/step_ms"]
    assert round(steps) == 15
    assert result.figures["time/epoch_gap_ms"] > 0  # of each epoch, 3 steps are measured: it has crossed four ends


def test_an_epoch_whose_steps_are_never_measured_ends_the_run(make_config: Make, terminal: Terminal) -> None:
    short = make_config(*TINY, "measure.seconds=0.2", "measure.epoch_steps=1")
    with pytest.raises(
        UserError, match="measure.epoch_steps=1: an epoch has 1 steps, and its first 1 are never measured"
    ):
        go(short, terminal)
    large = make_config(*TINY, "measure.seconds=0.2", "batch_size=18")
    with pytest.raises(UserError, match="measure.seconds=0.2: an epoch has 1 steps"):
        go(large, terminal)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_memory_of_workers_is_recorded(num_workers: int, make_config: Make, terminal: Terminal) -> None:
    config = make_config("epochs=2", "evaluate=false", "device=cpu", f"loader.num_workers={num_workers}")
    figures = go(config, terminal).figures
    if num_workers == 0:
        assert "memory/worker_mib" not in figures
    else:
        assert 0 < figures["memory/worker_mib"] < figures["memory/host_peak_mib"]

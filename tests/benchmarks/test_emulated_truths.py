"""The truths that emulated runs are compared with."""

from __future__ import annotations

import argparse

import pytest

from benchmarks.harness import emulated_truths
from benchmarks.harness.emulated_copies import cycle_ms
from benchmarks.harness.emulated_runs import STEP_WORK, Bench, Check, idle_pct
from loaderlab.device.timeline import NS_PER_MS as MS
from loaderlab.device.timeline import Busy
from loaderlab.meter.step import Step

STEP_MS = {"forward": 6, "backward": 10, "optimizer": 2}


def log_of(starts_ms: list[int]) -> list[Busy]:
    """The log of steps of 18 ms without pauses inside, and of a copy of 1 ms before each step."""
    log = []
    for start_ms in starts_ms:
        log.append(Busy(0, "copy", (start_ms - 1) * MS, start_ms * MS))
        at_ms = start_ms
        for work in STEP_WORK:
            log.append(Busy(0, work, at_ms * MS, (at_ms + STEP_MS[work]) * MS))
            at_ms += STEP_MS[work]
    return log


def window_of(numbers: list[int]) -> list[Step]:
    return [Step(0, number, number, 32, (0, 0, 0, 0, 0)) for number in numbers]


@pytest.mark.parametrize(
    ("numbers", "idle_ms", "length_ms"),
    [([1], 2, 20), ([2], 7, 25), ([1, 2], 9, 45), ([1, 3], 2 + 3, 20 + 21)],  # a gap in the window does not count
)
def test_the_idle_share_of_a_window(numbers: list[int], idle_ms: int, length_ms: int) -> None:
    """A copy is not the accelerator's own work: it is idle from the end of one step to the start of the next."""
    log = log_of([1, 21, 46, 67])
    assert idle_pct(log, window_of(numbers)) == pytest.approx(100 * idle_ms / length_ms)


def test_the_cycle_of_each_rung() -> None:
    """By hand: steps of 20 ms, copies of 5 ms, batches of 22 ms that the training process builds."""
    rungs = ("pageable", "pinned", "non_blocking", "side_stream")
    assert [cycle_ms(rung, 0, 22.0) for rung in rungs] == [32, 27, 25, 22]
    assert [cycle_ms(rung, 1, 22.0) for rung in rungs] == [30, 25, 25, 22]


class Off:
    """A case with one error."""

    def __init__(self, error: float) -> None:
        self.name, self._error = f"off by {error:g}", error

    def checks(self, bench: Bench) -> list[Check]:
        return [Check("points", self._error, 2.0, "the explanation")]


@pytest.mark.parametrize(("error", "exit_code"), [(1.9, 0), (-2.1, 1), (float("nan"), 1)])
def test_an_error_above_the_limit_fails(
    error: float, exit_code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(emulated_truths, "CASES", [Off(0.0), Off(error)])
    assert emulated_truths.check_cases(argparse.ArgumentParser(), "", 2, quick=True) == exit_code
    printed = capsys.readouterr().out
    assert ("WRONG" in printed) == ("the explanation" in printed) == (exit_code == 1)

"""What this project set out to reach on a GPU, each with what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu_acceptance.kept import Outcome
from loaderlab.compare.arms import Arm, Comparison
from loaderlab.compare.stats import LEAST_PAIRS
from loaderlab.metrics import EFFICIENCY_PCT
from loaderlab.parity.status import PARITY, UNLIKE_WORK

LEAST_EFFICIENCY_PCT = 95.0
FROM_FILES = ("native", "spdl", "dali")
OVERHEAD = 1.002
CEILING = 0.02  # how far the ceiling may be from a loop by hand
BY_TEST = (  # what a test asserts, and the test's name
    (
        "work in flight while the host waits does not count as starved: a planted 10 % reads 10 %, within 3 points",
        "test_work_in_flight_is_not_starved",
    ),
    (
        "the gaps of the event clock agree with a profiler's trace of the same run within 2 points",
        "test_event_gaps_agree_with_a_trace_of_the_same_run",
    ),
    (
        "no corrupted batch in 10,000 steps of copies on a side stream, the allocator without memory to spare",
        "test_a_copy_on_a_side_stream_hands_out_whole_batches",
    ),
    ("memory is back at the start after each of 10 jobs", "test_memory_comes_back_after_each_of_ten_jobs"),
    (
        "every loader delivers each sample once, with the same pixels, on CUDA",
        "test_each_sample_once_in_the_plans_order",
    ),
    ("every precision is in force as it says", "test_precisions_of_a_gpu"),
)


@dataclass(frozen=True)
class Criterion:
    """``reached`` is None where it was not measured, or too few or too noisy figures show nothing."""

    what: str
    measured: str
    reached: bool | None

    @property
    def verdict(self) -> str:
        return {None: "not shown" if self.measured else "not measured", True: "reached", False: "**not reached**"}[
            self.reached
        ]


def criteria(
    comparisons: Mapping[str, Comparison],
    overhead: Mapping[str, Any] | None,
    tests: Iterable[Outcome],
    cores: int | None,
) -> Iterator[Criterion]:
    """Of the figures that are there.

    Args:
        comparisons: of each sweep that has finished runs.
        overhead: as `benchmarks.overhead.main` gives it, on this GPU.
        tests: how each ended.
        cores: that the programs may use.
    """
    yield _fed(comparisons.get("fed"), cores)
    yield _cost(overhead)
    for name, what in (("by_hand", "a loop by hand reaches"), ("evaluator", "DALI's replay evaluator gives")):
        yield _ceiling(
            f"the ceiling is what {what}, within 2 %", None if overhead is None else overhead["ceiling"][name]
        )
    listed = list(tests)
    for what, name in BY_TEST:
        yield _tested(what, [test.outcome for test in listed if f"::{name}[" in f"{test.test}["])


def _tested(what: str, outcomes: list[str]) -> Criterion:
    """One failure is enough to say no; a yes needs all of them."""
    if not set(outcomes) & {"passed", "failed"}:
        return Criterion(what, "", None)
    told = f"{outcomes.count('passed')} of {len(outcomes)} tests pass"
    others = len(outcomes) - outcomes.count("passed") - outcomes.count("failed")
    told += f", {others} skipped or not ended" if others else ""
    return Criterion(what, told, False if "failed" in outcomes else None if others else True)


def _fed(comparison: Comparison | None, cores: int | None) -> Criterion:
    """Over the arms that read files while they train and do the same work: what lies on the device already needs no feeding."""
    what = f"ResNet-50 in bf16 from JPEG files at {LEAST_EFFICIENCY_PCT:.0f} % of its ceiling or better with the best loader"
    every = [] if comparison is None else comparison.arms
    arms = [
        arm
        for arm in every
        if arm.runs[0].settings["loader.name"] in FROM_FILES
        and _share(arm) is not None
        and not any(told.startswith(UNLIKE_WORK) for told in arm.tags(PARITY))
    ]
    if not arms:
        return Criterion(what, "", None)
    best = max(arms, key=lambda arm: _share(arm) or 0)
    share = _share(best) or 0.0
    shares = sorted(run.figures[EFFICIENCY_PCT] for run in best.runs if EFFICIENCY_PCT in run.figures)
    said = f"{share:.1f} % ({shares[0]:.1f} to {shares[-1]:.1f}, n = {len(shares)}): {best.label}"
    said += "" if cores is None else f", {cores} cores"
    # as everywhere, fewer than three runs claim nothing
    return Criterion(what, said, share >= LEAST_EFFICIENCY_PCT if len(shares) >= LEAST_PAIRS else None)


def _cost(overhead: Mapping[str, Any] | None) -> Criterion:
    what = "the meter costs at most 0.2 % of a ResNet-50 step"
    if overhead is None:
        return Criterion(what, "", None)
    value, low, high = overhead["ratio"]
    shown = f"{100 * (value - 1):+.3f} % ({100 * (low - 1):+.3f} to {100 * (high - 1):+.3f})"
    return Criterion(what, shown, _within(low, high, 0.0, OVERHEAD))  # a meter that saves time costs nothing


def _ceiling(what: str, ratio: tuple[float, float, float] | None) -> Criterion:
    if ratio is None:
        return Criterion(what, "", None)
    value, low, high = ratio
    return Criterion(what, f"{value:.4f}x ({low:.4f} to {high:.4f})", _within(low, high, 1 - CEILING, 1 + CEILING))


def _within(low: float, high: float, least: float, most: float) -> bool | None:
    """None where the interval neither lies within the limits nor beyond one of them: too noisy to tell."""
    if least <= low and high <= most:
        return True
    return False if low > most or high < least else None


def _share(arm: Arm) -> float | None:
    return arm.median(EFFICIENCY_PCT)

"""The targets of this project on a GPU, each with the measured value."""

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
OVERHEAD = 1.002  # largest ratio of a metered step to a bare one
CEILING = 0.02  # largest relative difference between the ceiling and a loop written by hand
BY_TEST = (  # what a test asserts, and the name of the test
    (
        "work in flight while the host waits does not count as starved: a planted 10 % is measured as 10 %, within 3 points",
        "test_work_in_flight_is_not_starved",
    ),
    (
        "the gaps of the event clock agree with a profiler's trace of the same run within 2 points",
        "test_event_gaps_agree_with_a_trace_of_the_same_run",
    ),
    (
        "no corrupted batch in 10,000 steps of copies on a side stream, with an allocator that has no spare memory",
        "test_a_copy_on_a_side_stream_hands_out_whole_batches",
    ),
    ("memory use returns to its initial value after each of 10 jobs", "test_memory_comes_back_after_each_of_ten_jobs"),
    (
        "every loader delivers each sample once, with the same pixels, on CUDA",
        "test_each_sample_once_in_the_plans_order",
    ),
    ("every precision has the effect that its settings say", "test_precisions_of_a_gpu"),
)


@dataclass(frozen=True)
class Criterion:
    """A target; ``reached`` is None if it was not measured, or with too few or too noisy measurements."""

    target: str
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
    """The targets, judged by the results that exist.

    Args:
        comparisons: one for each sweep that has finished runs.
        overhead: the result of `benchmarks.overhead.main` on this GPU.
        tests: the outcome of each test.
        cores: the number that programs may use.
    """
    yield _fed(comparisons.get("fed"), cores)
    yield _cost(overhead)
    for name, reference in (("by_hand", "a loop written by hand"), ("evaluator", "DALI's replay evaluator")):
        yield _ceiling(
            f"the ceiling equals the rate of {reference}, within 2 %",
            None if overhead is None else overhead["ceiling"][name],
        )
    listed = list(tests)
    for target, name in BY_TEST:
        yield _tested(target, [test.outcome for test in listed if f"::{name}[" in f"{test.test}["])


def _tested(target: str, outcomes: list[str]) -> Criterion:
    """Not reached if one test failed, reached if all passed."""
    if not set(outcomes) & {"passed", "failed"}:
        return Criterion(target, "", None)
    measured = f"{outcomes.count('passed')} of {len(outcomes)} tests pass"
    others = len(outcomes) - outcomes.count("passed") - outcomes.count("failed")
    measured += f", {others} skipped or not finished" if others else ""
    return Criterion(target, measured, False if "failed" in outcomes else None if others else True)


def _fed(comparison: Comparison | None, cores: int | None) -> Criterion:
    """Judges the best arm that reads files while it trains and does the same work as the others.

    Arms whose samples are already on the device do not need to be fed.
    """
    target = (
        f"ResNet-50 in bf16 from JPEG files reaches {LEAST_EFFICIENCY_PCT:.0f} % of its ceiling with the best loader"
    )
    all_arms = [] if comparison is None else comparison.arms
    arms = [
        arm
        for arm in all_arms
        if arm.runs[0].settings["loader.name"] in FROM_FILES
        and _share(arm) is not None
        and not any(status.startswith(UNLIKE_WORK) for status in arm.tags(PARITY))
    ]
    if not arms:
        return Criterion(target, "", None)
    best = max(arms, key=lambda arm: _share(arm) or 0)
    share = _share(best) or 0.0
    shares = sorted(run.figures[EFFICIENCY_PCT] for run in best.runs if EFFICIENCY_PCT in run.figures)
    measured = f"{share:.1f} % ({shares[0]:.1f} to {shares[-1]:.1f}, n = {len(shares)}): {best.label}"
    measured += "" if cores is None else f", {cores} cores"
    # as everywhere, no claim is made from fewer than three runs
    return Criterion(target, measured, share >= LEAST_EFFICIENCY_PCT if len(shares) >= LEAST_PAIRS else None)


def _cost(overhead: Mapping[str, Any] | None) -> Criterion:
    target = "the meter costs at most 0.2 % of a ResNet-50 step"
    if overhead is None:
        return Criterion(target, "", None)
    value, low, high = overhead["ratio"]
    measured = f"{100 * (value - 1):+.3f} % ({100 * (low - 1):+.3f} to {100 * (high - 1):+.3f})"
    return Criterion(target, measured, _within(low, high, 0.0, OVERHEAD))  # a ratio below 1 also reaches the target


def _ceiling(target: str, ratio: tuple[float, float, float] | None) -> Criterion:
    if ratio is None:
        return Criterion(target, "", None)
    value, low, high = ratio
    return Criterion(target, f"{value:.4f}x ({low:.4f} to {high:.4f})", _within(low, high, 1 - CEILING, 1 + CEILING))


def _within(low: float, high: float, least: float, most: float) -> bool | None:
    """Whether the interval is within the limits; None if it contains one of them, because that is too noisy to decide."""
    if least <= low and high <= most:
        return True
    return False if low > most or high < least else None


def _share(arm: Arm) -> float | None:
    return arm.median(EFFICIENCY_PCT)

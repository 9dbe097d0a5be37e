"""The targets of this project on a GPU, each with the measured value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu_acceptance import fed
from benchmarks.gpu_acceptance.kept import Outcome
from loaderlab.compare.arms import Comparison

OVERHEAD = 1.002  # largest ratio of a metered step to a bare one
CEILING = 0.02  # largest relative difference between the ceiling and a loop written by hand
REFERENCES = {"by_hand": "loop written by hand", "evaluator": "DALI's replay evaluator"}  # of the ceiling
BY_TEST = (  # what a test asserts, the name of the test, and whether one of its cases needs DALI
    (
        "work in flight while the host waits does not count as starved: planted shares of 0, 10 and 50 % agree with events around the work, within 1 point",
        "test_work_in_flight_is_not_starved",
        False,
    ),
    (
        "the gaps of the event clock agree with a profiler's trace of the same run within 2 points",
        "test_event_gaps_agree_with_a_trace_of_the_same_run",
        False,
    ),
    (
        "no corrupted batch in 10,000 steps of copies on a side stream, with an allocator that has no spare memory",
        "test_a_copy_on_a_side_stream_hands_out_whole_batches",
        False,
    ),
    (
        "memory use returns to its initial value after each of 10 jobs",
        "test_memory_comes_back_after_each_of_ten_jobs",
        True,
    ),
    (
        "every loader delivers each sample once, with the same pixels, on CUDA",
        "test_each_sample_once_in_the_plans_order",
        True,
    ),
    ("every precision has the effect that its settings say", "test_precisions_of_a_gpu", False),
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
    overheads: Mapping[str, Mapping[str, Any]],
    tests: Iterable[Outcome],
    cores: int | None,
) -> Iterator[Criterion]:
    """The targets, judged by the results that exist.

    Args:
        comparisons: one for each sweep that has finished runs.
        overheads: the results of `benchmarks.overhead.main` on this GPU, by the name of the part.
        tests: the outcome of each test.
        cores: the number that programs may use.
    """
    yield _fed(comparisons.get("fed"), cores)
    for name, setup in (("overhead", "fp32"), ("overhead_bf16", "bf16, channels last")):
        yield _cost(f"the meter costs at most 0.2 % of a ResNet-50 step in {setup}", overheads.get(name))
    for part, name in (("overhead", "by_hand"), ("evaluator", "evaluator")):
        yield _ceiling(
            f"the ceiling equals the rate of {'a ' * (name == 'by_hand')}{REFERENCES[name]}, within 2 %",
            overheads.get(part, {}).get("ceiling", {}).get(name),
        )
    listed = list(tests)
    for target, name, needs_dali in BY_TEST:
        yield _tested(target, [test for test in listed if f"::{name}[" in f"{test.test}["], needs_dali=needs_dali)


def _tested(target: str, tests: list[Outcome], *, needs_dali: bool) -> Criterion:
    """Not reached if one test failed, reached if all passed, including one with DALI if there is such a case."""
    outcomes = [test.outcome for test in tests]
    if not set(outcomes) & {"passed", "failed"}:
        return Criterion(target, "", None)
    measured = f"{outcomes.count('passed')} of {len(outcomes)} tests pass"
    others = len(outcomes) - outcomes.count("passed") - outcomes.count("failed")
    measured += f", {others} skipped or not finished" if others else ""
    missing = needs_dali and not any("dali" in test.test for test in tests)
    measured += ", those with DALI have not run" if missing else ""
    return Criterion(target, measured, False if "failed" in outcomes else None if others or missing else True)


def _fed(comparison: Comparison | None, cores: int | None) -> Criterion:
    target = f"ResNet-50 in bf16 from JPEG files reaches {fed.LEAST_PCT:.0f} % of its ceiling with the best loader"
    measured, reached = fed.judged(comparison)
    return Criterion(target, measured + (f", {cores} cores" if measured and cores is not None else ""), reached)


def _cost(target: str, overhead: Mapping[str, Any] | None) -> Criterion:
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

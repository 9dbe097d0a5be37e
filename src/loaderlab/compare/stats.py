"""Statistics over runs: medians, and intervals that hold what they promise with three to five repeats. Pure.

Steps of one run are correlated, runs are not: every interval here is over runs. Rates are compared as ratios, so on
their logarithms; arms of one round share its seed and its hour, so pair by pair. Student's t is used because a
percentile bootstrap of so few runs raises a false alarm several times as often as it says (see ``tests/test_stats.py``
for what this one does on simulated sweeps).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from scipy.special import stdtrit

__all__ = ["CONFIDENCE", "LEAST_PAIRS", "Ratio", "median", "ratio", "repeats_for", "spread"]

CONFIDENCE = 0.95
LEAST_PAIRS = 3  # fewer claim nothing
MAX_REPEATS = 1000  # more than anybody runs: "too noisy" says enough


@dataclass(frozen=True)
class Ratio:
    """How many times one arm's figure is another's.

    Attributes:
        value: geometric mean of the paired ratios, above 0.
        low, high: the interval; None with fewer than `LEAST_PAIRS` pairs.
        num_pairs: rounds in which both were measured.
        deviation: standard deviation of the log ratios; None with fewer than two pairs.
        level: of the pairs that were given, the confidence that the interval was made for.
    """

    value: float
    low: float | None
    high: float | None
    num_pairs: int
    deviation: float | None
    level: float = CONFIDENCE

    @property
    def above(self) -> bool:
        """Whether the whole interval lies above 1."""
        return self.low is not None and self.low > 1

    @property
    def below(self) -> bool:
        """Whether the whole interval lies below 1."""
        return self.high is not None and self.high < 1

    @property
    def shown(self) -> bool:
        """Whether the interval leaves out 1: a difference is shown."""
        return self.above or self.below

    @property
    def noisy(self) -> bool:
        """Whether nothing is shown, and the interval is so wide that a difference of 10 % would hide in it."""
        if self.low is None or self.high is None or self.shown:
            return False
        return math.sqrt(self.high / self.low) > NOISY


NOISY = 1.10
TO_TELL = 1.05  # the difference that `repeats_for` is asked for


def ratio(pairs: Sequence[tuple[float, float]], confidence: float = CONFIDENCE) -> Ratio:
    """The ratio first / second over pairs of runs, with Student's t on its logarithm.

    Args:
        pairs: at least one; figures of the two arms in one round, each above 0.
        confidence: of the interval, 0 to 1. Whoever picks the best of k arms asks for ``1 - 0.05 / (k - 1)``.

    Raises:
        ValueError: no pair, or a figure that is not above 0.
    """
    if not pairs or min(min(pair) for pair in pairs) <= 0:
        raise ValueError(f"a ratio needs pairs of figures above 0, got {list(pairs)}")
    logs = [math.log(first / second) for first, second in pairs]
    centre = fmean(logs)
    deviation = stdev(logs) if len(logs) > 1 else None
    if len(logs) < LEAST_PAIRS or deviation is None:
        return Ratio(math.exp(centre), None, None, len(logs), deviation, confidence)
    half = _half_width(deviation, len(logs), confidence)
    return Ratio(math.exp(centre), math.exp(centre - half), math.exp(centre + half), len(logs), deviation, confidence)


def repeats_for(deviation: float, difference: float = TO_TELL, confidence: float = CONFIDENCE) -> int | None:
    """Repeats that it would take for an interval no wider than a difference, at this noise.

    Args:
        deviation: standard deviation of the log ratios.
        difference: as a ratio, above 1: 1.05 for 5 %.

    Returns:
        The smallest number of pairs whose interval reaches from its centre by no more than that; None above 1,000.
    """
    for count in range(LEAST_PAIRS, MAX_REPEATS + 1):
        if _half_width(deviation, count, confidence) <= math.log(difference):
            return count
    return None


def spread(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of an arm's own centre over its runs, by t on the logarithms; None with fewer than three.

    It is wider than the interval of a paired difference: rounds that are all slower move it and not the ratio.
    """
    if len(values) < LEAST_PAIRS or min(values) <= 0:
        return None
    centre = ratio([(value, 1.0) for value in values])
    assert centre.low is not None
    assert centre.high is not None
    return centre.low, centre.high


def _half_width(deviation: float, count: int, confidence: float) -> float:
    return float(stdtrit(count - 1, (1 + confidence) / 2)) * deviation / math.sqrt(count)

"""Statistics over runs: medians, and confidence intervals that are correct with three to five repeats. Pure.

Steps of one run are correlated, runs are not, so every interval is over runs. Rates are compared as ratios, on a log
scale. The arms of one repeat share its seed and run one after the other, so ratios are formed pair by pair. Student's t
is used because a percentile bootstrap of so few runs gives several times as many false alarms as its level allows
(``tests/compare/test_stats.py`` has the error rates on simulated sweeps).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from scipy.special import stdtrit

__all__ = ["CONFIDENCE", "LEAST_PAIRS", "Ratio", "mean_interval", "median", "ratio", "repeats_for", "spread"]

CONFIDENCE = 0.95
LEAST_PAIRS = 3  # no claim is made from fewer
MAX_REPEATS = 1000  # nobody runs more


@dataclass(frozen=True)
class Ratio:
    """The ratio of two arms' values, with its confidence interval.

    Attributes:
        value: geometric mean of the paired ratios, above 0.
        low, high: the interval; None with fewer than `LEAST_PAIRS` pairs.
        num_pairs: repeats in which both arms were measured.
        deviation: standard deviation of the log ratios; None with fewer than two pairs.
        level: the confidence level of the interval.
    """

    value: float
    low: float | None
    high: float | None
    num_pairs: int
    deviation: float | None
    level: float = CONFIDENCE

    @property
    def above(self) -> bool:
        """Whether the whole interval is above 1."""
        return self.low is not None and self.low > 1

    @property
    def below(self) -> bool:
        """Whether the whole interval is below 1."""
        return self.high is not None and self.high < 1

    @property
    def shown(self) -> bool:
        """Whether a difference is shown: the interval does not include 1."""
        return self.above or self.below

    @property
    def noisy(self) -> bool:
        """Whether no difference is shown, and the interval is too wide to show one of 10 %."""
        if self.low is None or self.high is None or self.shown:
            return False
        return math.sqrt(self.high / self.low) > NOISY


NOISY = 1.10  # half-width of the interval, as a ratio
TO_SHOW = 1.05  # the difference for which a note states the number of repeats


def ratio(pairs: Sequence[tuple[float, float]], confidence: float = CONFIDENCE) -> Ratio:
    """The ratio first / second over pairs of runs, with Student's t on its logarithm.

    Args:
        pairs: at least one; the values of both arms in one repeat, each above 0.
        confidence: of the interval, 0 to 1. To pick the best of k arms, use ``1 - 0.05 / (k - 1)``.

    Raises:
        ValueError: there is no pair, or a value is not above 0.
    """
    if not pairs or min(min(pair) for pair in pairs) <= 0:
        raise ValueError(f"a ratio needs pairs of values above 0, got {list(pairs)}")
    logs = [math.log(first / second) for first, second in pairs]
    centre = fmean(logs)
    deviation = stdev(logs) if len(logs) > 1 else None
    if len(logs) < LEAST_PAIRS or deviation is None:
        return Ratio(math.exp(centre), None, None, len(logs), deviation, confidence)
    half = _half_width(deviation, len(logs), confidence)
    return Ratio(math.exp(centre), math.exp(centre - half), math.exp(centre + half), len(logs), deviation, confidence)


def repeats_for(deviation: float, difference: float = TO_SHOW, confidence: float = CONFIDENCE) -> int | None:
    """The number of repeats that are needed to show a difference at this noise.

    Args:
        deviation: standard deviation of the log ratios.
        difference: as a ratio, above 1: 1.05 for 5 %.

    Returns:
        The smallest number of pairs whose interval has at most this half-width; None above 1,000.
    """
    for count in range(LEAST_PAIRS, MAX_REPEATS + 1):
        if _half_width(deviation, count, confidence) <= math.log(difference):
            return count
    return None


def spread(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % CI of an arm's centre over its runs, by Student's t on the logarithms; None with fewer than three runs.

    It is wider than the interval of a paired ratio: a repeat in which all arms are slower widens it, but not the ratio's.
    """
    if len(values) < LEAST_PAIRS or min(values) <= 0:
        return None
    centre = ratio([(value, 1.0) for value in values])
    assert centre.low is not None
    assert centre.high is not None
    return centre.low, centre.high


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """The confidence interval of a mean over runs, by Student's t; None with one run. For shares, which may be 0."""
    if len(values) < 2:
        return None
    margin = _half_width(stdev(values), len(values), confidence)
    return fmean(values) - margin, fmean(values) + margin


def _half_width(deviation: float, count: int, confidence: float) -> float:
    return float(stdtrit(count - 1, (1 + confidence) / 2)) * deviation / math.sqrt(count)

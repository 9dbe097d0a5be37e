"""The starved share of a candidate as text that looks neither better nor worse than the limit by rounding. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from loaderlab.tuning.answer import Answer
from loaderlab.tuning.candidate import Candidate
from loaderlab.tuning.lost import grade
from loaderlab.tuning.trial import Interval

MOST_DIGITS = 3  # after the decimal point


@dataclass(frozen=True)
class Share:
    """The starved share of one candidate, percent.

    Attributes:
        interval: 95 %: over the runs of the confirmation, or within the run of the search.
        limit: from which the device is not fed, percent.
    """

    pct: float
    interval: Interval | None
    limit: float

    @property
    def state(self) -> str:
        """Whether the device is fed, see `loaderlab.tuning.lost.grade`."""
        return grade(self.interval, self.limit)

    @property
    def brackets(self) -> str:
        """``(0.1 to 0.9)``; empty without an interval."""
        return f"({self._ends})" if self.interval is not None else ""

    @property
    def text(self) -> str:
        """``0.4 % (0.1 to 0.9)``, for a table whose heading says 95 % CI."""
        return f"{self._digits(self.pct)} % {self.brackets}".rstrip()

    def phrase(self, num_runs: int) -> str:
        """``0.4 % of the time (0.1 to 0.9 %, n = 3)``, for a sentence."""
        interval = f"{self._ends} %, " if self.interval is not None else ""
        return f"{self._digits(self.pct)} % of the time ({interval}n = {num_runs})"

    @property
    def _ends(self) -> str:
        low, high = self.interval or (self.pct, self.pct)
        return f"{self._digits(max(0.0, low))} to {self._digits(min(100.0, high))}"

    def _digits(self, value: float) -> str:
        """With one decimal, or more if it would look equal to the limit."""
        for digits in range(1, MOST_DIGITS + 1):
            text = f"{value:.{digits}f}"
            if float(text) != self.limit or value == self.limit:
                break
        return text


def confirmed_share(answer: Answer, candidate: Candidate) -> Share | None:
    """The share that the confirmation measured; None if it did not measure the candidate."""
    runs = answer.confirmed.get(candidate)
    if runs is None or not runs.runs:
        return None
    return Share(runs.lost_pct, runs.lost_interval, answer.max_starved_pct)


def searched_share(answer: Answer, candidate: Candidate) -> Share | None:
    """The share that the last trial of the search measured; None without a result."""
    for tried in reversed(answer.tried):
        if tried.candidate == candidate and tried.measured is not None:
            return Share(tried.lost_pct, tried.lost_interval, answer.max_starved_pct)
    return None

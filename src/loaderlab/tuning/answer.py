"""The answer of the tuner, as data. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loaderlab.tuning.candidate import Candidate
from loaderlab.tuning.trial import Facts, Interval, Measured

# how sure the answer is
CERTIFIED = "certified"  # the chosen settings are fed, and the next cheaper ones are not, both by confidence interval
NOT_SEPARABLE = "not separable"  # the intervals of the chosen settings or of the cheaper ones contain the limit
UNCONFIRMED = "not confirmed"  # the time was over, or Ctrl-C, before the confirmation had ended
NOT_FED = "nothing feeds the device"  # the fastest settings are named, and what is missing


@dataclass(frozen=True)
class Predicted:
    """A prediction before the trial: samples/s, and the starved share in percent."""

    rate: float
    starved_pct: float


@dataclass(frozen=True)
class Tried:
    """A trial of the search: what was expected and what came out. ``measured`` is None if it died; ``error`` says why."""

    candidate: Candidate
    reason: str
    predicted: Predicted | None
    measured: Measured | None
    error: str = ""
    lost_pct: float = 0.0
    lost_interval: Interval | None = None


@dataclass(frozen=True)
class Confirmed:
    """The runs of one candidate in the confirmation.

    Attributes:
        runs: one per round.
        lost_pct, lost_interval: mean share of the time for which the device was starved, ends of epochs included, and its 95 %
            interval over the runs; None with one run.
        rate, rate_interval: mean, samples/s.
    """

    candidate: Candidate
    runs: Sequence[Measured]
    lost_pct: float
    lost_interval: Interval | None
    rate: float
    rate_interval: Interval | None = None


@dataclass(frozen=True)
class Excluded:
    """A candidate that was not tried, and why."""

    candidate: Candidate
    reason: str


@dataclass(frozen=True)
class Answer:
    """The result of the tuner.

    Attributes:
        grade: CERTIFIED, NOT_SEPARABLE, UNCONFIRMED or NOT_FED.
        chosen: the cheapest settings that feed the device; with NOT_FED the fastest ones; None if no trial had a result.
        neighbour: the best of the cheaper settings; None if there is nothing cheaper.
        fastest: of all that were tried.
        tried, excluded: the search.
        confirmed: the confirmation, by candidate.
        certificate: one sentence.
        missing: with NOT_FED: what would feed the device.
        notes: caveats, one sentence each.
        search_s, confirm_s, starts_s: how long the search and the confirmation took, and the process starts in both.
        interrupted: by Ctrl-C.
        supply: for each branch's title, the predicted rate of the loader alone over the number of makers, samples/s.
        demand: the rate that the step takes over the number of makers, samples/s.
        memory_limit_makers: the largest number of workers for which there is memory; None if it is no limit.
    """

    grade: str
    facts: Facts
    max_starved_pct: float
    chosen: Candidate | None
    neighbour: Candidate | None
    fastest: Candidate | None
    tried: Sequence[Tried]
    excluded: Sequence[Excluded]
    confirmed: Mapping[Candidate, Confirmed]
    certificate: str
    missing: str = ""
    notes: Sequence[str] = ()
    search_s: float = 0.0
    confirm_s: float = 0.0
    starts_s: float = 0.0
    interrupted: bool = False
    supply: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    demand: Sequence[tuple[int, float]] = ()
    memory_limit_makers: int | None = None

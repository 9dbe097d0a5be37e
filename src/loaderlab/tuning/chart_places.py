"""Where the candidates of an answer are drawn, what is predicted for them, the height of the axes, and the caption. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loaderlab.tuning.answer import Answer, Predicted
from loaderlab.tuning.candidate import Candidate
from loaderlab.tuning.shares import searched_share

MARGIN = 0.5  # in makers, on both sides
APART = 0.16  # of a maker, between two candidates with the same number of makers
WIDE = 8  # makers, from which candidates are drawn further apart
TOP = 1.12


@dataclass(frozen=True)
class Places:
    """Attributes:
    at: the place of each candidate on the x axis.
    left, right: the ends of the x axis.
    branches: titles, in the order of their colours.
    """

    at: Mapping[Candidate, float]
    left: float
    right: float
    branches: Sequence[str]


def drawn(answer: Answer) -> list[Candidate]:
    """The candidates that were tried or confirmed."""
    return list(dict.fromkeys([*(tried.candidate for tried in answer.tried), *answer.confirmed]))


def by_count(answer: Answer) -> dict[int, list[Candidate]]:
    """The drawn candidates by their number of makers, those with the smaller queue first."""
    groups: dict[int, list[Candidate]] = {}
    for candidate in sorted(drawn(answer), key=lambda entry: (entry.makers, entry.batches_ahead)):
        groups.setdefault(candidate.makers, []).append(candidate)
    return groups


def places(answer: Answer) -> Places:
    """The places of all candidates. The axis shows the first count that does not fit into memory, if it is near."""
    groups = by_count(answer)
    most = max(groups, default=0)
    limit = answer.memory_limit_makers
    right = most + MARGIN
    if limit is not None and limit <= most + 2:
        right = max(most, limit) + 1 + MARGIN
    apart = APART * max(1.0, most / WIDE)
    at = {
        candidate: count + apart * (place - (len(group) - 1) / 2)
        for count, group in groups.items()
        for place, candidate in enumerate(group)
    }
    branches = dict.fromkeys([candidate.branch.title for candidate in at])
    current = answer.facts.current.branch.title
    ordered = sorted(branches, key=lambda title: title != current)
    return Places(at, min(groups, default=0) - MARGIN, right, ordered)


def height(answer: Answer, candidate: Candidate | None, *, is_rate: bool) -> float | None:
    """The rate or the starved share of a candidate: of the confirmation, otherwise of the search; None without a result."""
    if candidate is None:
        return None
    if candidate in answer.confirmed:
        confirmed = answer.confirmed[candidate]
        return confirmed.rate if is_rate else confirmed.lost_pct
    if not is_rate:
        share = searched_share(answer, candidate)
        return share.pct if share is not None else None
    rates = [tried.measured.rate for tried in answer.tried if tried.candidate == candidate and tried.measured]
    return rates[-1] if rates else None


def expected(answer: Answer, branch: str, most: float) -> list[tuple[int, Predicted]]:
    """What the final rates of the loader alone and of the step predict for 1 to ``most`` makers of a branch. Without makers, loader and
    step take turns, which these two rates do not predict."""
    demand = dict(answer.demand)
    return [
        (count, Predicted(min(rate, demand[count]), 100 * (1 - min(1.0, rate / demand[count]))))
        for count, rate in answer.supply.get(branch, ())
        if 1 <= count <= most and demand.get(count)
    ]


def highest_rate(answer: Answer) -> float:
    """The upper end of the axis of rates."""
    rates = [rate for candidate in drawn(answer) if (rate := height(answer, candidate, is_rate=True)) is not None]
    rates += [confirmed.rate_interval[1] for confirmed in answer.confirmed.values() if confirmed.rate_interval]
    rates += [tried.predicted.rate for tried in answer.tried if tried.predicted]
    rates += [rate for count, rate in answer.demand]
    return TOP * max(rates, default=1.0)


def highest_pct(answer: Answer) -> float:
    """The upper end of the axis of starved shares."""
    ends = [confirmed.lost_interval[1] for confirmed in answer.confirmed.values() if confirmed.lost_interval]
    ends += [confirmed.lost_pct for confirmed in answer.confirmed.values()]
    ends += [max(tried.lost_pct, (tried.lost_interval or (0, 0))[1]) for tried in answer.tried]
    ends += [tried.predicted.starved_pct for tried in answer.tried if tried.predicted]
    ends.append(answer.max_starved_pct)
    return min(105.0, TOP * max(ends))


def is_drawn(answer: Answer) -> bool:
    """Whether there is anything to draw: a trial or a confirmation with a result."""
    return any(tried.measured is not None for tried in answer.tried) or bool(answer.confirmed)


def caption(answer: Answer) -> str:
    """What the picture shows, in a few sentences."""
    parts = ["Above: the rate; below: the share of the time in which the device was starved of data."]
    parts.append("Grey dots are runs of the search; large dots are the confirmation, with the 95 % CI over its runs.")
    limit = answer.memory_limit_makers
    if limit is not None and limit + MARGIN < places(answer).right:
        parts.append(f"Shaded: more than {limit} would not fit into memory.")
    if any(len(group) > 1 for group in by_count(answer).values()):
        parts.append("Settings with the same number of makers are drawn side by side, the smallest queue first.")
    return " ".join(parts)

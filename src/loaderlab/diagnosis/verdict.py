"""The grade (fed, starved, inconclusive) and the bottleneck, from the evidence. Pure: no clock, no torch.

The grades are those of TensorFlow's profiler: under 5 % of the time dry for want of data is fed, 20 % and more is
starved. Where the evidence contradicts itself, or is too little, the verdict is "inconclusive", with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from loaderlab.diagnosis.advice import advise
from loaderlab.diagnosis.bottleneck import bottleneck_of
from loaderlab.diagnosis.evidence import (
    CLOCKS_PCT,
    EPOCH_GAP,
    EPOCH_START,
    FED,
    HAND_OVER,
    INCONCLUSIVE,
    INTERFERENCE,
    JITTER,
    PARTLY,
    PARTLY_FROM_PCT,
    POTENTIAL_X,
    STARVED,
    STARVED_FROM_PCT,
    TOLERANCE,
    WORTH_X,
    Advice,
    Evidence,
    Setup,
    as_override,
)


@dataclass(frozen=True)
class Verdict:
    """The answer.

    Attributes:
        grade: fed, partly starved, starved or inconclusive.
        bottleneck: None if it is not known.
        headroom_x: the most that a perfect loader could give; by the ceiling, otherwise by the starved share alone.
        because: the evidence, and why it is inconclusive if it is.
        advice: best first.
        render: says how to follow a piece of advice, in the terms of the program that was measured.
    """

    grade: str
    bottleneck: str | None
    headroom_x: float | None
    because: str
    advice: tuple[Advice, ...] = ()
    render: Callable[[Advice], str] = field(default=as_override, compare=False, repr=False)

    @property
    def to_try(self) -> list[str]:
        """Each piece of advice in one sentence, best first."""
        return [advice.sentence(self.render(advice)) for advice in self.advice]

    def tags(self) -> dict[str, str]:
        """As tags of a run."""
        tags = {"verdict": self.grade, "verdict.because": self.because}
        if self.bottleneck:
            tags["bottleneck"] = self.bottleneck
        if self.advice:
            tags["advice"] = "; ".join(self.to_try)
        return tags

    def __str__(self) -> str:
        parts = [f"{self.grade}: {self.because}."]
        if self.bottleneck:
            parts.append(f"Bottleneck: {self.bottleneck}.")
        if self.advice:
            verb = "Try" if self.render(self.advice[0]) else "To do:"
            parts.append(f"{verb} {self.to_try[0]}.")
        return " ".join(parts)


def grade(starved_pct: float) -> str:
    """The grade of a starved share, percent.

    >>> [grade(share) for share in (4.9, 5.0, 20.0)]
    ['fed', 'partly starved', 'starved']
    """
    if starved_pct < PARTLY_FROM_PCT:
        return FED
    return PARTLY if starved_pct < STARVED_FROM_PCT else STARVED


def judge(evidence: Evidence, setup: Setup | None = None) -> Verdict:
    """The verdict. Without a setup there is no advice to type."""
    headroom = evidence.headroom
    if headroom is None and evidence.num_steps and evidence.starved_pct < 100:
        headroom = 1 / (1 - evidence.starved_pct / 100)
    if doubt := _doubt(evidence, setup):
        shares = f"; measured: {_dry(evidence)}" if evidence.num_steps else ""
        return Verdict(INCONCLUSIVE, None, headroom, f"{doubt[0]}{shares}", (Advice(doubt[1]),))
    steady, gap = grade(evidence.starved_pct), grade(evidence.gap_pct or 0.0)
    lost_between = evidence.gap_pct or 0.0
    by_gap = gap != FED and lost_between > evidence.starved_pct * (1 - lost_between / 100)
    bottleneck = EPOCH_GAP if by_gap else bottleneck_of(evidence, setup, fed=steady == FED)
    because = _because(evidence, bottleneck, headroom)
    if gap != FED:
        between = f"{lost_between:.0f} % of the loop goes between epochs, from the last step to the next first batch"
        because = f"{between}; within them {because}" if by_gap else f"{because}; {between}"
    advice = advise(evidence, setup, bottleneck) if setup is not None else ()
    return Verdict(max(gap, steady, key=_severity), bottleneck, headroom, because, advice)


def _severity(name: str) -> int:
    return (FED, PARTLY, STARVED).index(name)


# ---- doubts ----------------------------------------------------------------------------------------------------


def _doubt(e: Evidence, setup: Setup | None) -> tuple[str, str] | None:
    """Why nothing can be claimed, and what to do about it; None where something can."""
    if e.num_steps < e.least_steps:
        few = "no step was" if e.num_steps == 0 else "1 step was" if e.num_steps == 1 else f"{e.num_steps} steps were"
        return f"{few} measured, and under {e.least_steps} say nothing", "measure more steps"
    if e.starved_interval is not None:
        low, high = (grade(bound) for bound in e.starved_interval)
        least, most = (_most_gain(e, bound) for bound in e.starved_interval)
        if low != high and least < WORTH_X and most > POTENTIAL_X:  # nothing to do at one end, something at the other
            both = f"a faster loader could give {least:.2f}x or {most:.2f}x"
            return f"between {low} and {high}, the interval holds both: {both}", "measure more steps"
    if e.clocks_pct is not None and e.clocks_pct > CLOCKS_PCT:
        return f"the host's clock and the device's differ by {e.clocks_pct:.1f} % over the same window", "run it again"
    if e.ceiling is None or e.rate is None:
        return None
    assert e.headroom is not None
    again = "run it again on a machine that does nothing else"
    # each figure with its own uncertainty, in the direction that would still reconcile them
    best = (e.ceiling_interval or (e.ceiling,) * 2)[1] / max(1e-9, (e.rate_interval or (e.rate,) * 2)[0])
    if best < 1 - TOLERANCE:
        return f"the ceiling ({e.ceiling:,.0f}/s) lies below the rate of the run ({e.rate:,.0f}/s)", again
    promised = 1 / (1 - min(99.0, (e.starved_interval or (e.starved_pct,) * 2)[0]) / 100)
    if best < (1 - TOLERANCE) * promised:
        return (
            f"the meter says {e.starved_pct:.0f} % dry, whose end would give {promised:.2f}x, and the ceiling shows "
            f"{e.headroom:.2f}x",
            again,
        )
    if grade(e.starved_pct) == FED and e.headroom > POTENTIAL_X and not _explained_by_contention(e):
        if e.contended is not None or (setup is not None and not setup.loader.works_ahead):
            why, what = "and nothing that was measured explains it", again
        else:
            why, what = (
                "and no contention probe tells why",
                "run it with measure.contention=true, or with a longer measure.probe_s",
            )
        return f"only {e.starved_pct:.1f} % dry, yet resident batches run {e.headroom:.2f}x as fast, {why}", what
    return None


def _most_gain(e: Evidence, starved_pct: float) -> float:
    """The most that a faster loader could give at this starved share: no more than the ceiling allows, if it is known."""
    by_share = 1 / (1 - min(99.0, max(0.0, starved_pct)) / 100)
    if e.ceiling is None or e.rate is None:
        return by_share
    ceiling, rate = (e.ceiling_interval or (e.ceiling,) * 2)[1], (e.rate_interval or (e.rate,) * 2)[0]
    return min(by_share, max(1.0, ceiling / max(1e-9, rate)))


def _explained_by_contention(e: Evidence) -> bool:
    """Whether the step is slowed by the loader running beside it as much as it was in the run."""
    if e.contended is None or e.rate is None:
        return False
    return e.contended * (1 - e.starved_pct / 100) <= (1 + TOLERANCE) * e.rate


# ---- words -----------------------------------------------------------------------------------------------------


def _dry(e: Evidence) -> str:
    interval = ""
    if e.starved_interval is not None:
        low, high = max(0.0, e.starved_interval[0]), min(100.0, e.starved_interval[1])
        interval = f" ({low:.1f} to {high:.1f})"
    return f"{e.starved_pct:.1f} % of the time{interval} dry for want of data"


def _borderline(e: Evidence) -> tuple[str, str] | None:
    """The two grades between which the interval of the starved share lies; None if both its ends have the same."""
    if e.starved_interval is None:
        return None
    low, high = (grade(bound) for bound in e.starved_interval)
    return None if low == high else (low, high)


def _because(e: Evidence, bottleneck: str, headroom: float | None) -> str:
    said = _dry(e)
    if e.change is not None:
        said += f" since step {e.change.index}, {100 * e.change.before:.1f} % before it (the figures of the run are of both)"
    if e.delivery_pct >= 1:
        said += f", {e.delivery_pct:.1f} points of it with the batch on its way"
    which = "faster loader"
    if bottleneck == INTERFERENCE:
        said += "; loader and step slow each other down"
        which = "loader that takes nothing from the step"
    if bottleneck in (HAND_OVER, JITTER, EPOCH_START):
        said += f"; the loader alone makes {e.loader_alone:,.0f}/s, the step takes {e.ceiling:,.0f}/s"
    if borderline := _borderline(e):
        said += f"; borderline between {borderline[0]} and {borderline[1]}"
    if headroom is not None:
        bound = "" if e.headroom is not None else " by this share alone"
        said += f"; a {which} can give at most {max(1.0, headroom):.2f}x{bound}"
    return said

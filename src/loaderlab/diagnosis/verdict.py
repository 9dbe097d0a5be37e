"""The grade (fed, starved, inconclusive) and the bottleneck, from the evidence. Pure: no clock, no torch.

The grades are those of TensorFlow's profiler: starved of data less than 5 % of the time is "fed", 20 % and more is
"starved". If the evidence is contradictory or too little, the verdict is "inconclusive", with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from loaderlab.diagnosis.advice import advise
from loaderlab.diagnosis.bottleneck import bottleneck_of
from loaderlab.diagnosis.capacity import capacity_text
from loaderlab.diagnosis.evidence import (
    BOTTLENECK_X,
    CLOCKS_PCT,
    DEVICE_DECODE,
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
from loaderlab.lines.words import sentence


@dataclass(frozen=True)
class Verdict:
    """Whether data starves the device, why, and what to do.

    Attributes:
        grade: fed, partly starved, starved or inconclusive.
        bottleneck: None if it is not known.
        headroom_x: the most that a perfect loader could gain; from the ceiling, or from the starved share and the time between epochs
            if there is none.
        because: the evidence; for an inconclusive verdict, the reason.
        advice: best first.
        capacity: how much of an emulated accelerator this host feeds, without a full stop; empty on a real device.
        slow_line: the slowest line of the loader, without a full stop; empty without a profile of it.
        render: how to follow a piece of advice in the measured program.
        html: the verdict with its loop as HTML, for notebooks; None: they show it as text.
    """

    grade: str
    bottleneck: str | None
    headroom_x: float | None
    because: str
    advice: tuple[Advice, ...] = ()
    capacity: str = ""
    slow_line: str = ""
    render: Callable[[Advice], str] = field(default=as_override, compare=False, repr=False)
    html: Callable[[Verdict], str] | None = field(default=None, compare=False, repr=False)

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
        if self.capacity:
            tags["capacity"] = self.capacity
        if self.slow_line:
            tags["slow_line"] = self.slow_line
        return tags

    @property
    def sentence(self) -> str:
        """The grade and the evidence, without a full stop: ``starved of data 46.9 % of the time …``, ``fed: starved …``."""
        return self.because if self.because.startswith(self.grade) else f"{self.grade}: {self.because}"

    def __str__(self) -> str:
        parts = [f"{self.sentence}."]
        if self.bottleneck:
            parts.append(f"Bottleneck: {self.bottleneck}.")
        if self.slow_line:
            parts.append(f"Slow line: {self.slow_line}.")
        if self.advice:
            verb = "Try" if self.render(self.advice[0]) else "To do:"
            parts.append(f"{verb} {self.to_try[0]}.")
        if self.capacity:
            parts.append(f"Capacity: {self.capacity}.")
        return " ".join(parts)

    def _repr_html_(self) -> str | None:
        """For notebooks."""
        return None if self.html is None else self.html(self)

    def __getstate__(self) -> dict[str, Any]:
        """A pickled verdict leaves out `html`, which may contain all steps of the loop."""
        return self.__dict__ | {"html": None}


def grade(starved_pct: float) -> str:
    """The grade of a starved share, percent.

    >>> [grade(share) for share in (4.9, 5.0, 20.0)]
    ['fed', 'partly starved', 'starved']
    """
    if starved_pct < PARTLY_FROM_PCT:
        return FED
    return PARTLY if starved_pct < STARVED_FROM_PCT else STARVED


def judge(evidence: Evidence, setup: Setup | None = None) -> Verdict:
    """The verdict on a loop. Without a setup it has no advice."""
    verdict = _judge(evidence, setup)
    return verdict if evidence.lines is None else replace(verdict, slow_line=sentence(evidence.lines))


def _judge(evidence: Evidence, setup: Setup | None) -> Verdict:
    headroom = evidence.headroom
    if headroom is None and evidence.num_steps and evidence.starved_pct < 100:
        headroom = 1 / (1 - evidence.starved_pct / 100)
    enough_steps = evidence.num_steps >= evidence.least_steps
    capacity = capacity_text(evidence, setup) if setup is not None and enough_steps else ""
    if doubt := _doubt(evidence, setup):
        reason, remedy = doubt
        measured = f"; measured: {_starved_share(evidence, setup)}" if evidence.num_steps else ""
        return Verdict(INCONCLUSIVE, None, headroom, f"{reason}{measured}", (Advice(remedy),), capacity)
    steady, gap = grade(evidence.starved_pct), grade(evidence.gap_pct or 0.0)
    lost_between = evidence.gap_pct or 0.0
    by_gap = gap != FED and lost_between > evidence.starved_pct * (1 - lost_between / 100)
    bottleneck = EPOCH_GAP if by_gap else bottleneck_of(evidence, setup, fed=steady == FED)
    because = _because(evidence, setup, bottleneck, headroom)
    if gap != FED:
        between = f"{lost_between:.0f} % of the loop is lost between epochs (from the last step of one to the first batch of the next)"
        because = f"{between}; within epochs, {because}" if by_gap else f"{because}; {between}"
    advice = advise(evidence, setup, bottleneck) if setup is not None else ()
    if evidence.ceiling is None and gap != FED:
        headroom = 1 / (1 - min(99.0, lost_pct(evidence)) / 100)
    return Verdict(max(gap, steady, key=_severity), bottleneck, headroom, because, advice, capacity)


def lost_pct(evidence: Evidence) -> float:
    """The share of the loop in which the device had no data, within epochs and between them, percent."""
    between = evidence.gap_pct or 0.0
    return between + evidence.starved_pct * (1 - between / 100)


def _severity(name: str) -> int:
    return (FED, PARTLY, STARVED).index(name)


# ---- doubts ----------------------------------------------------------------------------------------------------


def _doubt(e: Evidence, setup: Setup | None) -> tuple[str, str] | None:
    """The reason why the verdict is inconclusive, and what to do about it; None if it is not."""
    if e.num_steps < e.least_steps:
        count = (
            "no step was"
            if e.num_steps == 0
            else "only 1 step was"
            if e.num_steps == 1
            else f"only {e.num_steps} steps were"
        )
        where = " on the emulated accelerator" if _is_emulated(setup) else ""
        return f"{count} measured{where}; at least {e.least_steps} are needed", "measure more steps"
    if e.starved_interval is not None:
        low, high = (grade(bound) for bound in e.starved_interval)
        least, most = (_max_gain(e, bound) for bound in e.starved_interval)
        if low != high and least < WORTH_X and most > POTENTIAL_X:  # worth doing at one end of the interval only
            gains = f"a faster loader could give between {least:.2f}x and {most:.2f}x"
            return f"the confidence interval reaches from {low} to {high}: {gains}", "measure more steps"
    if e.clocks_pct is not None and e.clocks_pct > CLOCKS_PCT:
        text = f"the clocks of host and device differ by {e.clocks_pct:.1f} % over the same window"
        return text, "run it again"
    if e.ceiling is None or e.rate is None:
        return None
    assert e.headroom is not None
    again = "run it again on an idle machine"
    # the largest headroom within the uncertainty of both rates: it is a contradiction only if even that is too small
    largest = (e.ceiling_interval or (e.ceiling,) * 2)[1] / max(1e-9, (e.rate_interval or (e.rate,) * 2)[0])
    if largest < 1 - TOLERANCE:
        text = f"the ceiling ({e.ceiling:,.0f} samples/s) is below the rate of the run ({e.rate:,.0f} samples/s)"
        return text, again
    by_share = 1 / (1 - min(99.0, (e.starved_interval or (e.starved_pct,) * 2)[0]) / 100)
    if largest < (1 - TOLERANCE) * by_share:
        return (
            f"the starved share of {e.starved_pct:.0f} % means that a perfect loader would give {by_share:.2f}x, but the "
            f"ceiling shows only {e.headroom:.2f}x",
            again,
        )
    return _unexplained(e, setup)


def _unexplained(e: Evidence, setup: Setup | None) -> tuple[str, str] | None:
    """The doubt if the step is faster without the loader than waiting and contention explain; None if they explain it."""
    assert e.ceiling is not None
    assert e.rate is not None
    assert e.headroom is not None
    fed = grade(e.starved_pct) == FED
    # of a starved run only a large remainder counts: caches and clocks differ a little between run and probe
    smallest = (e.ceiling_interval or (e.ceiling,) * 2)[0] / max(1e-9, (e.rate_interval or (e.rate,) * 2)[1])
    remainder = e.headroom if fed else smallest * (1 - e.starved_pct / 100)
    if remainder <= (POTENTIAL_X if fed else BOTTLENECK_X) or _explained_by_contention(e):
        return None
    text = f"starved of data only {e.starved_pct:.1f} % of the time, but without the loader the loop runs {e.headroom:.2f}x as fast"
    if e.contended is not None or (setup is not None and not setup.loader.works_ahead):
        return f"{text}, and no measurement explains why", "run it again on an idle machine"
    if not fed:
        return None  # the loader may slow the step down, which nobody has measured
    remedy = "run it with measure.contention=true, or with a longer measure.probe_s"
    return f"{text}, and no contention probe was made that could explain why", remedy


def _max_gain(e: Evidence, starved_pct: float) -> float:
    """The most that a faster loader could give at this starved share, limited by the ceiling if it is known."""
    by_share = 1 / (1 - min(99.0, max(0.0, starved_pct)) / 100)
    if e.ceiling is None or e.rate is None:
        return by_share
    ceiling, rate = (e.ceiling_interval or (e.ceiling,) * 2)[1], (e.rate_interval or (e.rate,) * 2)[0]
    return min(by_share, max(1.0, ceiling / max(1e-9, rate)))


def _explained_by_contention(e: Evidence) -> bool:
    """Whether the running loader slows the step as much in the contention probe as in the run."""
    if e.contended is None or e.rate is None:
        return False
    return e.contended * (1 - e.starved_pct / 100) <= (1 + TOLERANCE) * e.rate


# ---- words -----------------------------------------------------------------------------------------------------


def _is_emulated(setup: Setup | None) -> bool:
    return setup is not None and setup.device.emulated


def _starved_share(e: Evidence, setup: Setup | None) -> str:
    subject = "the emulated accelerator was " if _is_emulated(setup) else ""
    interval = ""
    if e.starved_interval is not None:
        low, high = max(0.0, e.starved_interval[0]), min(100.0, e.starved_interval[1])
        interval = f" (95 % CI {low:.1f} to {high:.1f})"
    return f"{subject}starved of data {e.starved_pct:.1f} % of the time{interval}"


def _borderline(e: Evidence) -> tuple[str, str] | None:
    """The grades at the two ends of the starved share's interval; None if they are the same."""
    if e.starved_interval is None:
        return None
    low, high = (grade(bound) for bound in e.starved_interval)
    return None if low == high else (low, high)


def _because(e: Evidence, setup: Setup | None, bottleneck: str, headroom: float | None) -> str:
    text = _starved_share(e, setup)
    if e.change is not None:
        text += f" since step {e.change.index} ({100 * e.change.before:.1f} % before it; the run's metrics cover both parts)"
    if e.delivery_pct >= 1:
        delivery = "the batch was on its way to the device"
        if bottleneck == DEVICE_DECODE:
            delivery = "the device prepared the batch"
        elif setup is not None and setup.device.emulated and setup.loader.prepares_on_device:
            delivery = "the host prepared the batch"
        text += f", including {e.delivery_pct:.1f} points in which {delivery}"
    which = "faster loader"
    if bottleneck == INTERFERENCE:
        text += "; loader and step slow each other down"
        which = "loader that does not slow the step down"
    if bottleneck in (HAND_OVER, JITTER, EPOCH_START):
        rates = f"the loader delivers {e.loader_alone:,.0f} samples/s and the step needs {e.ceiling:,.0f}"
        text += f"; alone, {rates}"
    if borderline := _borderline(e):
        text += f"; borderline between {borderline[0]} and {borderline[1]}"
    if headroom is not None:
        basis = "" if e.headroom is not None else " (from the starved share alone)"
        text += f"; a {which} can give at most {max(1.0, headroom):.2f}x{basis}"
    return text

"""The grade (fed, starved, inconclusive) and the bottleneck, from the evidence. Pure: no clock, no torch.

The grades are those of TensorFlow's profiler: under 5 % of the time dry for want of data is fed, 20 % and more is
starved. Where the evidence contradicts itself, or is too little, the verdict is "inconclusive", with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from loaderlab.diagnosis.advice import advise
from loaderlab.diagnosis.evidence import (
    CLOCKS_PCT,
    COMPUTE,
    COPY,
    CROWDED_PCT,
    DECODE,
    DEVICE_DECODE,
    EPOCH_GAP,
    FED,
    INCONCLUSIVE,
    INTERFERENCE,
    LAUNCH,
    LOADER,
    PARTLY,
    PARTLY_FROM_PCT,
    POTENTIAL_X,
    PYTHON,
    QUEUING,
    STARVED,
    STARVED_FROM_PCT,
    STORAGE,
    TOLERANCE,
    Advice,
    Evidence,
    Setup,
    as_override,
    expected_rate,
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
    bottleneck = EPOCH_GAP if by_gap else _bottleneck(evidence, setup, steady)
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
        if low != high:
            return f"between {low} and {high}, the interval holds both", "measure more steps"
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


def _explained_by_contention(e: Evidence) -> bool:
    """Whether the step is slowed by the loader running beside it as much as it was in the run."""
    if e.contended is None or e.rate is None:
        return False
    return e.contended * (1 - e.starved_pct / 100) <= (1 + TOLERANCE) * e.rate


# ---- the bottleneck --------------------------------------------------------------------------------------------


def _bottleneck(e: Evidence, setup: Setup | None, found: str) -> str:
    if found == FED:
        if e.headroom is not None and e.headroom > POTENTIAL_X:
            return INTERFERENCE  # else it were doubtful
        return _of_the_step(e)
    on_device = setup is not None and setup.loader.decodes_on_device
    if e.delivery_pct >= e.starved_pct / 2:
        return DEVICE_DECODE if on_device else COPY
    if _as_slow_as_cold(e):
        return STORAGE
    if setup is None:
        return LOADER
    if _lost_to_each_other(e, setup):
        # slowed by the step, the loader would have computed as much, only longer: it waited, for files read a first time
        idle = e.cpu_pct is not None and e.cpu_pct < CROWDED_PCT
        return STORAGE if idle and not _step_is_slowed(e) else INTERFERENCE
    could = min(max(setup.loader.busy_cores, setup.loader.parallel), setup.cores)
    busy = None if e.loader_cores is None else e.loader_cores / max(1, could)
    if on_device and (busy is None or busy < CROWDED_PCT / 100):
        return DEVICE_DECODE  # the wait for it is a wait for the pipeline
    if busy is not None and busy < 0.5:
        return STORAGE  # it waits more than it computes
    if e.stages:
        return DECODE if e.stages["prepare"] >= _assembling(e, e.stages, setup) else PYTHON
    if setup.in_memory:
        return PYTHON
    return DECODE if busy is not None else LOADER


def _assembling(e: Evidence, stages: Mapping[str, float], s: Setup) -> float:
    """Seconds of a worker per sample that go into collation and into handing batches over to the training process: the
    loader alone against what its workers need for the samples."""
    if not s.loader.works_ahead or e.loader_alone is None or s.loader.parallel > s.cores:
        return stages["collate"]  # no hand-over, or one that cannot be told from workers that share cores
    return max(stages["collate"], s.loader.parallel / e.loader_alone - stages["prepare"])


def _as_slow_as_cold(e: Evidence) -> bool:
    """Whether files out of the kernel's cache slow the loop, and the run was nearer to that than to a warm cache."""
    if e.cold is None or e.warm is None or e.rate is None:
        return False
    return e.cold < (1 - TOLERANCE) * e.warm and e.rate < math.sqrt(e.cold * e.warm)


def _of_the_step(e: Evidence) -> str:
    """What bounds a step that does not wait for data."""
    if e.idle_pct is not None:  # a trace: by what the device did not do
        idle = e.idle_pct - e.starved_pct
        if max(idle, e.copy_pct) >= PARTLY_FROM_PCT:
            return LAUNCH if idle >= e.copy_pct else COPY
    if e.drained_pct is not None and e.drained_pct > 50 and _host_is_in_front(e):
        return LAUNCH
    return COMPUTE


def _host_is_in_front(e: Evidence) -> bool:
    """Whether queuing a step's work takes the host about as long as doing it takes the device. That the device has always
    finished says it alone only where the host never waits for it, as it does in each step with the scaler of fp16."""
    passes = ("forward", "backward")
    if not all(f"host_{name}" in e.phases_ms for name in passes):
        return True
    host, device = (sum(e.phases_ms[f"{of}{name}"] for name in passes) for of in ("host_", ""))
    return host >= QUEUING * device


def _lost_to_each_other(e: Evidence, setup: Setup) -> bool:
    """Whether loader and step, each fast enough alone, lose more to each other than to the loader's own speed."""
    expected = expected_rate(e, setup) if setup.loader.works_ahead else None  # else neither ever runs beside the other
    if expected is None or e.rate is None or e.ceiling is None:
        return False
    by_loader, by_each_other = 1 / expected - 1 / e.ceiling, 1 / e.rate - 1 / expected
    return by_each_other > max(by_loader, TOLERANCE / e.rate)


def _step_is_slowed(e: Evidence) -> bool:
    """Whether more time goes into a step that is slower than with resident batches than into waiting: no file does that."""
    assert e.rate is not None
    assert e.ceiling is not None
    waited = e.starved_pct / 100 / e.rate
    return 1 / e.rate - waited - 1 / e.ceiling > waited


# ---- words -----------------------------------------------------------------------------------------------------


def _dry(e: Evidence) -> str:
    interval = ""
    if e.starved_interval is not None:
        low, high = max(0.0, e.starved_interval[0]), min(100.0, e.starved_interval[1])
        interval = f" ({low:.1f} to {high:.1f})"
    return f"{e.starved_pct:.1f} % of the time{interval} dry for want of data"


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
    if headroom is not None:
        bound = "" if e.headroom is not None else " by this share alone"
        said += f"; a {which} can give at most {max(1.0, headroom):.2f}x{bound}"
    return said

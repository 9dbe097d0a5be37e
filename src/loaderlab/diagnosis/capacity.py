"""How much of an emulated accelerator this host feeds, as numbers and in words. Pure.

All estimates are linear: they scale the loader's own rate and its CPU time to the accelerator's speed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from loaderlab.diagnosis.evidence import PARTLY_FROM_PCT, TOLERANCE, Evidence, RequestedSpeed, Setup, core_s_per_sample
from loaderlab.diagnosis.feed_limit import FeedLimit, feed_limit

CLOSE = 0.05  # an estimate this little above a whole number of workers is rounded down


@dataclass(frozen=True)
class Capacity:
    """The capacity of a host and a loader. None: not measured, or the loader has no workers or threads to count.

    Attributes:
        accelerators_fed: rate of the loader alone / requested rate.
        workers_needed: workers or threads that feed one accelerator; None too if no number of them can: see ``limit``.
        cores_needed: cores that feed one accelerator: loader and host part of the step; None too if no number of them can.
        utilization: rate of the run / requested rate, 0 to 1.
        limit: of the utilization with any number of workers; None if enough of them feed the accelerator.
    """

    accelerators_fed: float | None
    workers_needed: float | None
    cores_needed: float | None
    utilization: float | None
    limit: FeedLimit | None = None


def capacity_of(e: Evidence, s: Setup) -> Capacity | None:
    """The capacity; None on a real device, and for a loader that loads nothing."""
    speed, makers, alone = s.accelerator, s.loader.makers, e.loader_alone
    if speed is None or s.loader.loads_nothing:
        return None
    rate = e.whole_rate or e.rate  # also after a change: the gate and MLPerf's rule are about the whole run
    if e.num_steps < e.least_steps:
        rate = None
    utilization, limit = rate / speed.rate if rate else None, feed_limit(speed, s)
    if not alone:
        return Capacity(None, None, None, utilization, limit)
    if limit is not None:
        return Capacity(alone / speed.rate, None, None, utilization, limit)
    core_s = core_s_per_sample(e, s)
    cores_needed = None if core_s is None else speed.rate * core_s
    workers_needed = None if makers is None else speed.rate * max(1, makers.count) / alone
    return Capacity(alone / speed.rate, workers_needed, cores_needed, utilization)


def capacity_text(e: Evidence, s: Setup) -> str:
    """The capacity and MLPerf Storage's rule in words, without a full stop at the end; empty on a real device, and for a
    loader that loads nothing."""
    capacity, speed = capacity_of(e, s), s.accelerator
    if capacity is None or speed is None:
        return ""
    rule = mlperf_rule(capacity.utilization, speed)
    if rule and e.gap_pct is not None and e.gap_pct >= PARTLY_FROM_PCT:
        rule += f" within epochs; between epochs {e.gap_pct:.0f} % of the loop is lost"
    return ". ".join(text for text in (_fed(capacity, speed, s), rule) if text)


def mlperf_rule(utilization: float | None, speed: RequestedSpeed) -> str:
    """Whether the utilization passes MLPerf Storage's rule: at least 0.90, or the preset's own threshold."""
    if utilization is None:
        return ""
    passes = utilization >= speed.min_utilization
    shown = shown_share(utilization, speed.min_utilization)
    result = "passes" if passes else "does not pass"
    if not speed.is_mlperf:
        return f"By MLPerf Storage's rule ({speed.min_utilization:.2f}): utilization {shown}, {result}"
    comparison = "at least" if passes else "below"
    return f"MLPerf Storage: utilization {shown}, {comparison} {speed.min_utilization:.2f}: {result}"


def shown_share(share: float, limit: float) -> str:
    """A share with two decimals, or with four if rounding would put it on the other side of the limit."""
    shown = f"{share:.2f}"
    return shown if (float(shown) >= limit) == (share >= limit) else f"{share:.4f}"


def _fed(capacity: Capacity, speed: RequestedSpeed, s: Setup) -> str:
    """How many accelerators the loader feeds, and what one of them needs."""
    fed = capacity.accelerators_fed
    if fed is None:
        return f"unknown for an {speed.title} ({speed.rate:,.0f} samples/s), since the loader was not measured alone"
    if fed < 1 and (capacity.utilization or 0.0) > (1 + TOLERANCE) * fed:
        slower = f"the loader alone fed {fed:.2f} of an {speed.title} ({speed.rate:,.0f} samples/s), less than the run"
        return f"unknown, since {slower} ({capacity.utilization:.2f}). Run it again on an idle machine"
    parts = [_number_fed(fed, capacity.utilization, speed, s)]
    if capacity.limit is not None:
        most = f"at most {capacity.limit.share:.2f} of one can be used"
        return f"{parts[0]}; with any number of {_kind(s)}s {most}: {capacity.limit.reason}"
    if capacity.workers_needed is None or (fed >= 1 and _is_below(capacity.utilization, speed)):
        return parts[0]  # more cores would not help this loader, or it is not the limit
    needs = [_cores(capacity.cores_needed, s.cores)] if capacity.cores_needed is not None else []
    count = max(1, math.ceil(capacity.workers_needed - CLOSE))
    measured = s.loader.makers.count if s.loader.makers is not None else 0
    if fed < 1 or measured:
        needs.append(_makers(count, s))
    if needs:
        needed = " and ".join(needs)
        parts.append(f"about {needed} would feed one" if fed < 1 else f"one needs about {needed}")
    if fed < 1 and count > measured:
        kind = _kind(s)
        parts.append(f"not measured beyond {_makers(measured, s)}" if measured else f"not measured with {kind}s")
        if s.max_makers is not None and count > s.max_makers:
            parts.append(f"this data allows at most {_makers(s.max_makers, s)}")
    return "; ".join(parts)


def _number_fed(fed: float, utilization: float | None, speed: RequestedSpeed, s: Setup) -> str:
    makers, rate = s.loader.makers, f"{speed.rate:,.0f} samples/s"
    using = "" if makers is None else f"with {_makers(makers.count, s)} " if makers.count else f"without {_kind(s)}s "
    if fed < 1:
        return f"{using}this host feeds {fed:.2f} of an {speed.title} ({rate})"
    could = f"{using}the loader alone could feed {_digits(fed)} {speed.title} accelerators ({rate} each)"
    if utilization is not None and _is_below(utilization, speed):  # a copy or the host part limits the run
        return f"{could}, but in the run it fed {utilization:.2f} of one"
    return could


def _is_below(utilization: float | None, speed: RequestedSpeed) -> bool:
    return utilization is not None and utilization < speed.min_utilization


def _digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"


def _cores(number: float, available: int) -> str:
    shown = f"{_digits(number)} cores" if number >= 0.05 else "0.1 cores or less"
    return f"{shown} (this host has {available})" if number > available else shown


def _kind(s: Setup) -> str:
    """``worker`` or ``thread``."""
    return "worker" if s.loader.makers is None else s.loader.makers.kind.removesuffix("s")


def _makers(count: int, s: Setup) -> str:
    return f"{count} {_kind(s)}{'s' * (count != 1)}"

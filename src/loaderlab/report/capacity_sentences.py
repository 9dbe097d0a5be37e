"""The capacity of a host for emulated accelerators in sentences."""

from __future__ import annotations

import math

from loaderlab import metrics
from loaderlab.compare.arms import Comparison, Group
from loaderlab.compare.capacity import CapacityCurve, accelerator, capacity_curve, threshold, utilization
from loaderlab.diagnosis.capacity import shown_share

DEVICE = "device.name"  # a tag by which the groups of several accelerators differ
FED = metrics.metric(metrics.ACCELERATORS_FED)


def capacity_sentences(group: Group, comparison: Comparison) -> list[str]:
    """What this host feeds, in one sentence; none on a real device."""
    if (curve := capacity_curve(group, comparison.columns)) is not None:
        return [_fewest(curve, named=DEVICE not in group.work)]
    arms = [(share, arm) for arm in group.arms if not arm.is_ceiling and (share := utilization(arm)) is not None]
    if not arms:
        return []
    share, best = max(arms, key=lambda entry: entry[0])
    limit = threshold(best)
    text = f"With {best.label}, the {accelerator(best)} has a utilization of {shown_share(share, limit)}"
    if (fed := best.median(metrics.ACCELERATORS_FED)) is not None:
        text += f", and the loader alone could feed {FED.number(fed)} of it"
    rule = f"MLPerf Storage's rule (at least {limit:.2f})"
    if len(arms) == 1:
        return [f"{text}. By {rule} it {'passes' if share >= limit else 'does not pass'}."]
    passing = sum(value >= limit for value, _ in arms)
    return [f"{text}. {passing or 'None'} of {len(arms)} arms {'passes' if passing == 1 else 'pass'} {rule}."]


def _fewest(curve: CapacityCurve, *, named: bool) -> str:
    """The fewest workers or threads that feed the accelerator.

    Args:
        named: with the accelerator's name and speed.
    """
    subject = f"the {accelerator(curve.arms[0][1])}" if named else "this emulated accelerator"
    limit = f"(threshold {curve.threshold:.2f})"
    if curve.enough is not None:
        count, arm = curve.enough
        fed = (
            f"{_named(count, curve.unit)} {'feeds' if count == 1 else 'feed'}" if count else "The process itself feeds"
        )
        share = shown_share(utilization(arm) or 0.0, curve.threshold)
        return f"{fed} {subject}: utilization {share} {limit}."
    highest, count = max((utilization(arm) or 0.0, count) for count, arm in curve.arms)
    with_makers = f"with {_named(count, curve.unit)}" if count else f"without {curve.unit}s"
    text = f"No measured number of {curve.unit}s feeds {subject}: the highest utilization is "
    text += f"{shown_share(highest, curve.threshold)}, {with_makers} {limit}"
    if curve.rate_of_one is None:
        return f"{text}."
    if curve.is_limited:
        return f"{text}. Queuing its steps or copying its batches takes too long for any number of {curve.unit}s."
    needed = math.ceil(curve.requested_rate / curve.rate_of_one)
    if needed <= curve.arms[-1][0]:
        return f"{text}. By the linear estimate {_named(needed, curve.unit)} would be enough, which the measurement does not confirm."
    cores = "" if curve.cores_needed is None else f" and about {curve.cores_needed:.1f} cores"
    return f"{text}. By the linear estimate it needs {_named(needed, curve.unit)}{cores}; not measured beyond {curve.arms[-1][0]}."


def _named(count: int, unit: str) -> str:
    return f"{count} {unit}{'s' * (count != 1)}"

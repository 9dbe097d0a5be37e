"""The picture of a host's capacity: the utilization of emulated accelerators over the number of workers or threads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loaderlab import metrics
from loaderlab.compare.capacity import CapacityCurve, accelerator, utilization
from loaderlab.report.chart_style import CYCLE, INK, MARKERS, PAPER, figure, legend_above

UTILIZATION = metrics.metric(metrics.UTILIZATION_PCT)


def utilizations(curves: Sequence[CapacityCurve]) -> Figure:
    """One line for each speed, with its linear estimate, and the thresholds."""
    drawn = figure(3.8)
    axis = drawn.subplots()
    counts = sorted({count for curve in curves for count, _ in curve.arms})
    for number, curve in enumerate(curves):
        _line(axis, curve, counts, number)
    if any(_has_estimate(curve) for curve in curves):
        axis.plot([], [], "--", color=INK, linewidth=1.0, label="linear estimate, loader alone")
    for limit in sorted({curve.threshold for curve in curves}):
        axis.axhline(100 * limit, linestyle=":", color=INK, linewidth=1.2, label=f"threshold, {100 * limit:.0f} %")
    axis.set_xticks(range(len(counts)), [str(count) for count in counts])
    axis.set(xlabel=f"{curves[0].unit}s", ylabel=f"utilization, {UTILIZATION.unit}", ylim=(0, 105))
    axis.grid(axis="y", linewidth=0.6)
    legend_above(drawn, axis)
    return drawn


def _has_estimate(curve: CapacityCurve) -> bool:
    """Whether its linear estimate is a line: with one number of workers it would be an invisible point."""
    return sum(curve.estimate(count) is not None for count, _ in curve.arms) > 1


def _line(axis: Axes, curve: CapacityCurve, counts: Sequence[int], number: int) -> None:
    """Draws the medians, the runs and the estimate of one accelerator."""
    color, marker = CYCLE[number % len(CYCLE)], MARKERS[number % len(MARKERS)]
    places = [counts.index(count) for count, _ in curve.arms]
    medians = [100 * (utilization(arm) or 0.0) for _, arm in curve.arms]
    estimates = [curve.estimate(count) for count, _ in curve.arms]
    if _has_estimate(curve):
        axis.plot(
            places, [np.nan if value is None else 100 * value for value in estimates], "--", color=color, linewidth=1.0
        )
    for place, (_, arm) in zip(places, curve.arms, strict=True):
        values = [run.figures[UTILIZATION.name] for run in arm.runs if UTILIZATION.name in run.figures]
        axis.plot([place] * len(values), values, "o", color=PAPER, markeredgecolor=color, markersize=4)
    axis.plot(
        places, medians, f"-{marker}", color=color, linewidth=1.8, markersize=5, label=accelerator(curve.arms[0][1])
    )

"""Pictures of the cost of speed: the curve over workers, and the metric against memory and cores."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loaderlab import metrics
from loaderlab.compare.arms import Group
from loaderlab.compare.axes import Curve
from loaderlab.compare.stats import median
from loaderlab.report.chart_arms import with_bars
from loaderlab.report.chart_style import CYCLE, INK, MARKERS, PAPER, cut, figure, legend_above

MEMORY = metrics.metric(metrics.HOST_PEAK_MIB)
CORES = metrics.metric(metrics.CPU_PCT)
MEMORY_AXIS = f"{MEMORY.short_label}, {MEMORY.unit}"
CORES_AXIS = f"CPU use, {CORES.unit} of {CORES.of}"


def workers(curve: Curve) -> Figure:
    """The metric and the memory over the number of workers or threads."""
    drawn = figure(3.2)
    left, right = drawn.subplots(1, 2, gridspec_kw={"wspace": 0.06})
    counts = [count for count, _ in curve.arms]
    places = range(len(counts))
    metric = metrics.metric(curve.arms[0][1].metric)
    _worker_lines(left, curve, counts)
    unit = curve.setting.rpartition(".")[2].removeprefix("num_")
    left.set(xlabel=unit, ylabel=metric.axis, ylim=(0, None))
    memory = [arm.median(metrics.HOST_PEAK_MIB) or np.nan for _, arm in curve.arms]
    right.plot(places, memory, "-o", color=CYCLE[3])
    right.set(xlabel=unit, ylabel=MEMORY_AXIS, ylim=(0, 1.1 * right.get_ylim()[1]))
    for axis in (left, right):
        axis.set_xticks(places, counts)
        axis.grid(axis="y", linewidth=0.6)
    left.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=8, borderaxespad=0)
    return drawn


def _worker_lines(axis: Axes, curve: Curve, counts: list[int]) -> None:
    """Draws medians with runs and intervals, the ceiling, and a ring around the knee."""
    places = range(len(counts))
    medians = [median(arm.values) for _, arm in curve.arms]
    for place, (_, arm) in enumerate(curve.arms):
        if arm.interval is not None:
            axis.plot([place, place], np.clip(arm.interval, 0, 2.5 * max(medians)), color=INK, linewidth=1.2)
        axis.plot([place] * len(arm.values), arm.values, "o", color=PAPER, markeredgecolor=INK, markersize=4)
    axis.plot(places, medians, "-", color=CYCLE[0], linewidth=1.8, label="median")
    ceilings = [arm.reliable_median(metrics.CEILING_RATE) for _, arm in curve.arms]
    if curve.arms[0][1].metric == metrics.RATE and any(ceilings):
        heights = [value if value is not None else np.nan for value in ceilings]
        axis.plot(places, heights, "--", color=CYCLE[1], label="ceiling")
    if curve.has_enough_repeats:
        knee = counts.index(curve.knee[0])
        axis.plot(
            [knee],
            [medians[knee]],
            "o",
            color="none",
            markeredgecolor=CYCLE[2],
            markersize=14,
            markeredgewidth=2,
            label="knee",
        )


def cost(group: Group) -> Figure:
    """The metric of each arm against the memory and the cores that it uses."""
    drawn = figure(3.4)
    axes = drawn.subplots(1, 2, sharey=True)
    arms = with_bars(group)
    for axis, name, label in ((axes[0], MEMORY.name, MEMORY_AXIS), (axes[1], CORES.name, CORES_AXIS)):
        for number, arm in enumerate(arms):
            if (value := arm.median(name)) is not None:
                axis.plot(
                    value,
                    median(arm.values),
                    MARKERS[number // len(CYCLE) % len(MARKERS)],
                    color=CYCLE[number % len(CYCLE)],
                    markersize=8,
                    markeredgecolor=INK,
                    label=cut(arm.label, 30),
                )
        furthest = max((arm.median(name) or 0.0 for arm in arms), default=0.0)
        axis.set(xlabel=label, xlim=(0, 1.12 * furthest or 1), ylim=(0, 1.12 * max(median(arm.values) for arm in arms)))
        axis.grid(linewidth=0.6)
    axes[0].set(ylabel=metrics.metric(arms[0].metric).axis)
    legend_above(drawn, axes[0])
    return drawn

"""Pictures with a row for each arm: its throughput, and how its time is spent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from loaderlab import metrics
from loaderlab.compare.arms import ComparedArm, Comparison, Group
from loaderlab.compare.axes import grid, hidden_gains
from loaderlab.compare.stats import median
from loaderlab.report.arm_table import in_order, row_label
from loaderlab.report.chart_arms import with_bars
from loaderlab.report.chart_style import CYCLE, INK, PAPER, cut, name_rows, rows_figure
from loaderlab.report.part_colours import COLOURS, PARTS

CEILING_GREY, LOWEST_GREY = "#7F8C99", "#9AA5B1"
ROOM = 2.5  # an interval is cut at this multiple of the largest run; a longer one would flatten the bars


def throughput(group: Group) -> Figure:
    """The metric of each arm, with its runs, interval and ceiling."""
    arms = with_bars(group)
    metric = metrics.metric(arms[0].metric)
    figure, axis = rows_figure(len(arms))
    ceilings = [arm.reliable_median(metrics.CEILING_RATE) if metric.name == metrics.RATE else None for arm in arms]
    for row, (arm, ceiling) in enumerate(zip(arms, ceilings, strict=True)):
        _throughput_row(axis, row, arm, ceiling)
    furthest = _furthest(arms, ceilings)
    for row, arm in enumerate(arms):
        text = metric.number(median(arm.values))
        text += "  baseline" if arm.partner is None and arm is group.baseline else ""
        text += f"  {_short_gain(arm)}"
        axis.text(furthest * 1.04, row, text, va="center", fontsize=8.5)
    name_rows(axis, [cut(arm.label) for arm in arms])
    axis.set(xlabel=metric.axis, xlim=(0, furthest * 1.3))
    axis.grid(axis="x", linewidth=0.6)
    axis.set_axisbelow(True)
    _throughput_legend(axis, arms, with_ceiling=any(ceilings))
    return figure


def _throughput_row(axis: Axes, row: int, arm: ComparedArm, ceiling: float | None) -> None:
    axis.barh(row, median(arm.values), height=0.62, color=CEILING_GREY if arm.is_ceiling else CYCLE[0], alpha=0.9)
    if ceiling is not None and not arm.is_ceiling:
        axis.plot([ceiling] * 2, [row - 0.38, row + 0.38], color=CYCLE[1], linewidth=3, solid_capstyle="butt")
    if arm.interval is not None:
        axis.plot(np.clip(arm.interval, 0, None), [row, row], color=INK, linewidth=1.2)
    axis.plot(
        arm.values,
        [row] * len(arm.values),
        "o",
        color=PAPER,
        markeredgecolor=INK,
        markersize=4,
        markeredgewidth=0.8,
    )


def _furthest(arms: Sequence[ComparedArm], ceilings: Sequence[float | None]) -> float:
    """The largest value to draw: of the bars, dots and intervals, where a very long interval is cut."""
    measured = max(max(*arm.values, ceiling or 0) for arm, ceiling in zip(arms, ceilings, strict=True))
    intervals = max((arm.interval or (0, 0))[1] for arm in arms)
    return min(max(measured, intervals), ROOM * measured)


def _throughput_legend(axis: Axes, arms: Sequence[ComparedArm], *, with_ceiling: bool) -> None:
    handles = [Line2D([], [], color=CYCLE[1], linewidth=3, label="ceiling")] if with_ceiling else []
    if any(arm.interval for arm in arms):
        handles.append(Line2D([], [], color=INK, linewidth=1.2, label="95 % CI"))
    handles.append(
        Line2D([], [], linestyle="", marker="o", color=PAPER, markeredgecolor=INK, markersize=4, label="one run")
    )
    if any(arm.gain is not None and arm.gain.low is not None and not arm.gain.shown for arm in arms):
        handles.append(Line2D([], [], linestyle="", label="n.d.s.: no difference shown"))
    axis.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize=8, borderaxespad=0)


def _short_gain(arm: ComparedArm) -> str:
    if arm.gain is None:
        return ""
    if arm.gain.low is None:
        return f"{arm.gain.value:.2f}x (n = {arm.gain.num_pairs})"
    return f"{arm.gain.value:.2f}x" + ("" if arm.gain.shown else " (n.d.s.)")


def ladder(group: Group, comparison: Comparison) -> Figure:
    """The training loop of each rung, split into the share starved of data and the rest."""
    rungs = in_order(comparison, group)
    seconds_of, starved = metrics.metric(metrics.TRAIN_S), metrics.metric(metrics.STARVED_PCT)
    figure, axis = rows_figure(len(rungs))
    furthest = max(arm.median(metrics.TRAIN_S) or 0.0 for arm in group.arms)
    for row, (_, arm) in enumerate(rungs):
        if arm is None:
            axis.text(0, row, " not applicable here", va="center", fontsize=8.5, style="italic")
            continue
        seconds = arm.median(metrics.TRAIN_S) or 0.0
        share = (arm.median(metrics.STARVED_PCT) or 0.0) / 100
        axis.barh(row, seconds * share, height=0.66, color=COLOURS["wait"])
        axis.barh(row, seconds * (1 - share), left=seconds * share, height=0.66, color=CYCLE[0])
        gain = _short_gain(arm) or ("baseline" if arm.is_baseline else "–")
        text = f"  {seconds_of.quantity(seconds)}   {gain}   starved {100 * share:.0f} {starved.unit}"
        axis.text(seconds, row, text, va="center", fontsize=8.5)
    name_rows(axis, [cut(row_label(comparison, name)) for name, _ in rungs])
    axis.set(
        xlabel=f"training loop, median, {seconds_of.unit} (n.d.s.: no difference from the first rung shown)",
        xlim=(0, 1.52 * furthest or 1),
    )
    axis.grid(axis="x", linewidth=0.6)
    axis.set_axisbelow(True)
    handles = [
        Patch(color=COLOURS["wait"], label="starved of data"),
        Patch(color=CYCLE[0], label="the rest of the loop"),
    ]
    axis.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=8, borderaxespad=0)
    return figure


def phases(group: Group) -> Figure:
    """The parts of a mean step, in the median run of each arm."""
    arms = with_bars(group)
    step = metrics.metric(metrics.STEP_MS)
    figure, axis = rows_figure(len(arms), extra=1.3)
    for row, arm in enumerate(arms):
        left = 0.0
        for part in PARTS:
            width = arm.representative.figures.get(metrics.PHASE_MS[part])
            if width is None:
                continue
            named = part if not any(artist.get_label() == part for artist in axis.containers) else None
            axis.barh(row, width, left=left, height=0.66, color=COLOURS[part], label=named)
            left += width
        axis.text(left, row, f"  {step.quantity(left)}", va="center", fontsize=8.5)
    name_rows(axis, [cut(arm.label) for arm in arms])
    axis.margins(x=0.14)
    axis.set_xlim(left=0)
    axis.set(xlabel=f"mean step of the median run, {step.unit}")
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=7, fontsize=8, borderaxespad=0, handlelength=1.2)
    return figure


def hidden(group: Group, comparison: Comparison) -> Figure:
    """The gain of a precision at the ceiling and with the loader, for each loader."""
    gains = hidden_gains(grid(group, comparison.columns))
    figure, axis = rows_figure(2 * len(gains))
    for row, entry in enumerate(gains):
        for offset, gain, colour in ((-0.2, entry.at_ceiling, LOWEST_GREY), (0.2, entry.with_loader, CYCLE[0])):
            axis.barh(row + offset, gain.value, height=0.36, color=colour)
            if gain.low is not None and gain.high is not None:
                axis.plot([gain.low, gain.high], [row + offset] * 2, color=INK, linewidth=1.2)
            axis.text(max(gain.value, gain.high or 0), row + offset, f"  {gain.value:.2f}x", va="center", fontsize=8.5)
    axis.axvline(1, color=INK, linewidth=0.9, linestyle="--")
    name_rows(axis, [f"{entry.precision} over {entry.over}\nwith {entry.loader}" for entry in gains])
    axis.set(xlabel="gain, as a ratio", xlim=(0, None))
    axis.margins(x=0.12)
    handles = [
        Patch(color=LOWEST_GREY, label="at the ceiling"),
        Patch(color=CYCLE[0], label="with the loader"),
    ]
    axis.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=8, borderaxespad=0)
    return figure

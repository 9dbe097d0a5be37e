"""The pictures of a comparison. Each answers one question, which is its title."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from loaderlab import metrics
from loaderlab.compare.arms import ComparedArm, Comparison, Group
from loaderlab.compare.axes import curve, grid, hidden_gains
from loaderlab.compare.capacity import CapacityCurve, capacity_curves
from loaderlab.compare.marks import mark_of
from loaderlab.config import EMULATED
from loaderlab.report import bar_charts, capacity_chart, chart_style, cost_charts, step_charts
from loaderlab.report.chart_arms import bars_left_out, lines_left_out, with_lines
from loaderlab.report.naming import named
from loaderlab.report.step_charts import Series

# {bars} and {lines} stand for a remark if not all arms are drawn
THROUGHPUT = "A bar is the median over the runs, each dot is one run, and the thin line is the 95 % CI of the arm's own centre (with at least three runs)."
CEILING = " The thick mark is the arm's ceiling: the rate of the same step with batches that are already on the device."
LADDER = "The whole training loop of each rung. Orange is the share of the measured window in which the device was starved of data."
HIDDEN = "The gain over the first precision: one bar for the ceiling (batches already on the device), one for the run with its loader. If the second bar is shorter, the loader hides part of the gain."
WORKERS = "Left: the median and the 95 % CI for each count. Right: the memory of all processes. With at least three repeats, the ring marks the knee: the fewest workers or threads within 5 % of the best."
PHASES = "The mean step of the measured window, split into its phases. Orange is waiting for data. Each bar is the median run of its arm.{bars}"
LOSS = "Training loss of the median run of each arm{lines}, over the time in the loop (left) and over the samples seen (right). If the lines on the right coincide, the arms learn the same; the left shows which arm gets there first."
WAITS = "The length of each step in grey, and its wait for data in orange, over the time in the loop, for the median run of each arm{lines}. Each bin shows its longest step."
CAPACITY = "The utilization of the emulated accelerator (rate / requested rate) over the number of workers or threads: the line is the median, each dot is one run. Dashed: the linear estimate from the rate of the loader alone with the fewest workers. Dotted: the threshold of MLPerf Storage."
COST = "Each dot is an arm: its memory (left) and its cores (right) against the compared metric."


@dataclass(frozen=True)
class Chart:
    """A drawn picture: the name of its file, its title, its caption, and its SVG for a page."""

    name: str
    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class _Planned:
    """A picture that is not drawn yet; its caption has placeholders for arms that are left out."""

    name: str
    title: str
    caption: str
    draw: Callable[[], Figure]


def draw(comparison: Comparison, series: Callable[[str], Series | None], folder: Path, main: str) -> list[Chart]:
    """All pictures for which this comparison has data.

    Args:
        series: returns the steps of a run by its id; None if they are lost.
        folder: where each picture is also written as a PNG.
        main: the file name, in that folder, for a copy of the first and most important picture.
    """
    charts: list[Chart] = []
    if curves := capacity_curves(comparison):
        charts.append(_capacity(curves, folder))
        shutil.copy(folder / f"{charts[0].name}.png", folder / main)
    for number, group in enumerate(comparison.groups):
        suffix = f"_{number + 1}" if len(comparison.groups) > 1 else ""
        steps_of = {arm: steps for arm in with_lines(group) if (steps := series(arm.representative.run_id)) is not None}
        for planned in _planned(comparison, group, steps_of):
            file = folder / named(f"{planned.name}{suffix}.png", emulated=comparison.is_emulated)
            caption = planned.caption.format(lines=lines_left_out(group), bars=bars_left_out(group))
            heading = _heading(planned, group) if comparison.is_emulated else ""
            charts.append(Chart(file.stem, heading or planned.title, caption, _draw(planned, file, heading)))
            if len(charts) == 1:
                shutil.copy(file, folder / main)
    return charts


def _capacity(curves: Sequence[CapacityCurve], folder: Path) -> Chart:
    """The picture of all emulated accelerators in one, whose arms are in separate groups."""
    title = (
        "How many workers feed the emulated accelerators?"
        if len(curves) > 1
        else "How many workers feed the emulated accelerator?"
    )
    planned = _Planned(f"capacity_{EMULATED}", title, CAPACITY, partial(capacity_chart.utilizations, curves))
    return Chart(planned.name, title, CAPACITY, _draw(planned, folder / f"{planned.name}.png", title))


def _heading(planned: _Planned, group: Group) -> str:
    """The line above a picture of an emulated accelerator: its title, and the accelerator with its speed."""
    device = next(iter(group.arms[0].tags("device.name")), mark_of(group.arms[0].runs))
    return f"{planned.title} ({device.partition(' (')[0]})"


def _draw(planned: _Planned, file: Path, heading: str) -> str:
    """Writes a picture as PNG and returns it as SVG."""
    with chart_style.in_style():
        figure = planned.draw()
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # the layout is done; otherwise each savefig would repeat it
        if heading:
            chart_style.add_heading(figure, heading)
        title = heading or planned.title
        figure.savefig(file, dpi=110, facecolor="white", metadata={"Title": title})
        return chart_style.svg(figure, title)


def _planned(comparison: Comparison, group: Group, steps_of: Mapping[ComparedArm, Series]) -> Iterator[_Planned]:
    """The pictures for which a group has data, the most important one first."""
    arms = with_lines(group)
    if comparison.is_ladder and comparison.metric == metrics.TRAIN_S:
        yield _Planned("ladder", "How much does each rung gain?", LADDER, partial(bar_charts.ladder, group, comparison))
    yield _throughput(comparison, group)
    if hidden_gains(grid(group, comparison.columns)):
        title = "How much of a precision's gain does the loader hide?"
        yield _Planned("precision", title, HIDDEN, partial(bar_charts.hidden, group, comparison))
    if (points := curve(group, comparison.columns)) is not None:
        title = "How many workers, and what do they cost?"
        yield _Planned("workers", title, WORKERS, partial(cost_charts.workers, points))
    if any(arm.median(metrics.WAIT_MS) is not None for arm in group.arms):
        yield _Planned("phases", "Where does a step's time go?", PHASES, partial(bar_charts.phases, group))
    if any(steps.has_loss for steps in steps_of.values()):
        title = "Do the arms learn the same, and how fast?"
        yield _Planned("loss", title, LOSS, partial(step_charts.loss, arms, steps_of))
    if steps_of:
        yield _Planned("waits", "When does each arm wait for data?", WAITS, partial(step_charts.waits, arms, steps_of))
    if any(arm.median(metrics.HOST_PEAK_MIB) for arm in group.arms) and len(group.arms) > 1:
        corner = "top" if metrics.higher_is_better(comparison.metric) else "bottom"
        caption = f"{COST} The {corner} left corner is best.{{bars}}"
        yield _Planned("cost", "What does the speed cost?", caption, partial(cost_charts.cost, group))


def _throughput(comparison: Comparison, group: Group) -> _Planned:
    with_ceiling = comparison.metric == metrics.RATE and any(
        arm.reliable_median(metrics.CEILING_RATE) for arm in group.arms if not arm.is_ceiling
    )
    title = "Which arm is best" + (", and how close is it to its ceiling?" if with_ceiling else "?")
    caption = THROUGHPUT + CEILING * with_ceiling + "{bars}"
    return _Planned("throughput", title, caption, partial(bar_charts.throughput, group))

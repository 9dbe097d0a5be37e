"""The pictures of a comparison, each the answer to one question: which there are, and what they are called."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from loaderlab import metrics
from loaderlab.compare.arms import ComparedArm, Comparison, Group
from loaderlab.compare.axes import curve, grid, hidden_gains
from loaderlab.report import bar_charts, chart_style, cost_charts, step_charts
from loaderlab.report.chart_arms import bars_left_out, lines_left_out, with_lines
from loaderlab.report.step_charts import Series

# {bars} and {lines}: that not all arms are drawn, where that is so
THROUGHPUT = "Bars are medians over the runs, each run a dot, the line the 95 % interval of the arm's own centre (from three runs on)."
CEILING = " The thick mark is the arm's ceiling: the same step with its batches at hand."
LADDER = "The whole training loop of each rung; orange is the share of its measured window in which the loop waited for data."
HIDDEN = "Gain over the first precision, with a bar for the same step on batches at hand and one for the loader as it is. Where the second is shorter, the loader hides the difference."
WORKERS = "Left, medians with the interval of each count; right, the memory of all processes. The ring marks the knee, from three rounds on: the fewest that come within 5 % of the best."
PHASES = "Mean of a step in the measured window, cut into what the loop does; orange is waiting for data. Of each arm the run in the middle, whose parts add up to its step.{bars}"
LOSS = "Training loss of the run in the middle of each arm{lines}, over the time in the loop and over the samples seen. Where the right-hand lines lie on each other, the arms learn the same; the left-hand side shows who is sooner there."
WAITS = "Each step's length in grey and, in orange, how much of it was waiting, over the time in the loop; the run in the middle of each arm{lines}. A bin shows its longest step."
COST = "Each dot is an arm: what it takes against what it gives."


@dataclass(frozen=True)
class Chart:
    """A picture: its file's name, the question that it answers, what to see, as SVG for a page."""

    name: str
    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class _Planned:
    """A picture that is still to be drawn; its caption has places for what is left out."""

    name: str
    title: str
    caption: str
    draw: Callable[[], Figure]


def draw(comparison: Comparison, series: Callable[[str], Series | None], folder: Path, main: str) -> list[Chart]:
    """Every picture that this comparison has something for.

    Args:
        series: gives the steps of a run by its id; None where they are lost.
        folder: where each is also written as PNG.
        main: there also the name of a copy of the first, the one that answers the question.
    """
    charts: list[Chart] = []
    for number, group in enumerate(comparison.groups):
        suffix = f"_{number + 1}" if len(comparison.groups) > 1 else ""
        steps_of = {arm: steps for arm in with_lines(group) if (steps := series(arm.representative.run_id)) is not None}
        for planned in _planned(comparison, group, steps_of):
            file = folder / f"{planned.name}{suffix}.png"
            caption = planned.caption.format(lines=lines_left_out(group), bars=bars_left_out(group))
            charts.append(Chart(file.stem, planned.title, caption, _draw(planned, file)))
            if len(charts) == 1:
                shutil.copy(file, folder / main)
    return charts


def _draw(planned: _Planned, file: Path) -> str:
    """Writes a picture as PNG and returns it as SVG."""
    with chart_style.in_style():
        figure = planned.draw()
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # it is laid out by now; each saving would do it again
        figure.savefig(file, dpi=110, facecolor="white")
        return chart_style.svg(figure, planned.title)


def _planned(comparison: Comparison, group: Group, steps_of: Mapping[ComparedArm, Series]) -> Iterator[_Planned]:
    """The pictures that a group has something for, the one that answers the question first."""
    arms = with_lines(group)
    if comparison.is_ladder and comparison.metric == metrics.TRAIN_S:
        yield _Planned("ladder", "What did each rung bring?", LADDER, partial(bar_charts.ladder, group, comparison))
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
        title = "Did they learn the same, and how soon?"
        yield _Planned("loss", title, LOSS, partial(step_charts.loss, arms, steps_of))
    if steps_of:
        yield _Planned("waits", "When did they wait?", WAITS, partial(step_charts.waits, arms, steps_of))
    if any(arm.median(metrics.HOST_PEAK_MIB) for arm in group.arms) and len(group.arms) > 1:
        better = "Up" if metrics.higher_is_better(comparison.metric) else "Down"
        caption = f"{COST} {better} and to the left is better.{{bars}}"
        yield _Planned("cost", "What does the speed cost?", caption, partial(cost_charts.cost, group))


def _throughput(comparison: Comparison, group: Group) -> _Planned:
    with_ceiling = comparison.metric == metrics.RATE and any(
        arm.settled(metrics.CEILING_RATE) for arm in group.arms if not arm.is_ceiling
    )
    title = "Which arm is better" + (", and how near is it to its ceiling?" if with_ceiling else "?")
    caption = THROUGHPUT + CEILING * with_ceiling + "{bars}"
    return _Planned("throughput", title, caption, partial(bar_charts.throughput, group))

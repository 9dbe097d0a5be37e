"""The picture of an answer: the rate and the starved share over the number of makers, measured and predicted."""

from __future__ import annotations

from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from loaderlab.report.chart_style import CYCLE, GRID, INK, PAPER, in_style, svg
from loaderlab.tuning import chart_places
from loaderlab.tuning.answer import Answer, Predicted
from loaderlab.tuning.chart_places import MARGIN, Places

SIZE = (5.2, 5.8)  # inches: narrow enough for a phone
SEARCHED = "#8a929b"
RING = "#009E73"
DEAD = "#C00000"
LEAST_TOP_PCT = 10.0
ASIDE = 0.07  # in makers: the search is drawn beside the confirmation, which would hide it


def draw(answer: Answer, path: Path) -> None:
    """Writes the picture as a PNG."""
    with in_style():
        figure(answer).savefig(path, dpi=150)


def as_svg(answer: Answer, title: str) -> str:
    """The picture as an SVG element for a page.

    Args:
        title: for screen readers; plain text without quotes.
    """
    with in_style():
        return svg(figure(answer), title)


def figure(answer: Answer) -> Figure:
    """The rate above, the starved share below. Call it within `loaderlab.report.chart_style.in_style`."""
    drawn = Figure(figsize=SIZE, layout="constrained")
    rates, shares = drawn.subplots(2, 1, sharex=True)
    places = chart_places.places(answer)
    for axis, is_rate in ((rates, True), (shares, False)):
        _predicted(axis, answer, places, is_rate=is_rate)
        _searched(axis, answer, places, is_rate=is_rate)
        _confirmed(axis, answer, places, is_rate=is_rate)
        _chosen(axis, answer, places, is_rate=is_rate)
        axis.grid(axis="y", linewidth=0.6)
    _demand(rates, answer, places)
    shares.axhline(answer.max_starved_pct, linestyle=":", color=INK, linewidth=1.2, label="limit of a fed device")
    rates.set(ylabel="samples/s", ylim=(0, chart_places.highest_rate(answer)))
    shares.set(ylabel="starved, % of the time", ylim=(0, max(LEAST_TOP_PCT, chart_places.highest_pct(answer))))
    shares.set(xlabel=_makers(answer), xlim=(places.left, places.right))
    shares.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for axis in (rates, shares):
        _memory(axis, answer, places)
    _legend(drawn, rates, shares)
    if answer.facts.emulated:
        rates.set_title(f"{answer.facts.device}, not a real device", fontsize=9, loc="left")
    return drawn


def _makers(answer: Answer) -> str:
    """The name of the x axis."""
    used = {candidate.branch.backend for candidate in chart_places.drawn(answer)}
    return "workers or threads" if len(used) > 1 else "workers" if used <= {"native", "own"} else "threads"


def _predicted(axis: Axes, answer: Answer, places: Places, *, is_rate: bool) -> None:
    """For each branch: a line from the final rates of loader and step, and what was predicted before each trial."""
    for number, branch in enumerate(places.branches):
        colour = CYCLE[number % len(CYCLE)]
        suffix = f", {branch}" if len(places.branches) > 1 else ""
        if points := chart_places.expected(answer, branch, places.right):
            heights = [_value(predicted, is_rate=is_rate) for _, predicted in points]
            label = f"predicted from all trials{suffix}"
            axis.plot([count for count, _ in points], heights, "--", color=colour, linewidth=1.3, label=label)
        before = [
            (places.at[tried.candidate], _value(tried.predicted, is_rate=is_rate))
            for tried in answer.tried
            if tried.candidate.branch.title == branch and tried.predicted is not None
        ]
        if before:
            x, y = zip(*before, strict=True)
            axis.plot(x, y, "x", color=colour, markersize=6, label=f"predicted before the trial{suffix}")


def _value(predicted: Predicted, *, is_rate: bool) -> float:
    return predicted.rate if is_rate else predicted.starved_pct


def _searched(axis: Axes, answer: Answer, places: Places, *, is_rate: bool) -> None:
    """The trials of the search, small and grey, and at the bottom those that died."""
    label, dead = "search, one run", "the trial died"
    for tried in answer.tried:
        x = places.at[tried.candidate] - ASIDE
        if tried.measured is None:
            if is_rate:
                axis.plot([x], [0], "X", color=DEAD, markersize=7, clip_on=False, zorder=5, label=dead)
            continue
        if not is_rate and tried.lost_interval is not None:
            axis.plot([x, x], tried.lost_interval, color=SEARCHED, linewidth=1.0)
        height = tried.measured.rate if is_rate else tried.lost_pct
        axis.plot([x], [height], "o", color=SEARCHED, markersize=4, clip_on=False, label=label)


def _confirmed(axis: Axes, answer: Answer, places: Places, *, is_rate: bool) -> None:
    """The confirmation with its intervals, in the colour of the branch."""
    for candidate, confirmed in answer.confirmed.items():
        x = places.at[candidate]
        interval = confirmed.rate_interval if is_rate else confirmed.lost_interval
        height = confirmed.rate if is_rate else confirmed.lost_pct
        colour = CYCLE[places.branches.index(candidate.branch.title) % len(CYCLE)]
        if interval is not None:
            axis.errorbar(
                [x], [height], [[height - max(0.0, interval[0])], [interval[1] - height]], color=INK, capsize=4
            )
        label = f"confirmation, n = {len(confirmed.runs)}" + (", 95 % CI" if interval is not None else "")
        axis.plot(
            [x], [height], "o", color=colour, markeredgecolor=PAPER, markersize=7, clip_on=False, zorder=4, label=label
        )


def _chosen(axis: Axes, answer: Answer, places: Places, *, is_rate: bool) -> None:
    """A ring around the chosen settings."""
    height = chart_places.height(answer, answer.chosen, is_rate=is_rate)
    if answer.chosen is not None and height is not None:
        x = places.at[answer.chosen] - ASIDE * (answer.chosen not in answer.confirmed)
        axis.plot(
            [x],
            [height],
            "o",
            color="none",
            markeredgecolor=RING,
            markersize=15,
            markeredgewidth=2,
            clip_on=False,
            label="chosen",
        )


def _demand(axis: Axes, answer: Answer, places: Places) -> None:
    """The rate that the step takes."""
    points = [(count, rate) for count, rate in answer.demand if count <= places.right + 1]
    if len(points) == 1:
        axis.axhline(points[0][1], color=INK, linewidth=1.4, label="what the step takes")
    elif points:
        x, y = zip(*points, strict=True)
        axis.plot(x, y, "-", color=INK, linewidth=1.4, label="what the step takes")


def _memory(axis: Axes, answer: Answer, places: Places) -> None:
    """Shades the counts for which there is no memory."""
    limit = answer.memory_limit_makers
    if limit is not None and limit + MARGIN < places.right:
        axis.axvspan(limit + MARGIN, places.right, color=GRID, alpha=0.6, linewidth=0, label="does not fit into memory")


def _legend(drawn: Figure, *axes: Axes) -> None:
    """One entry for each label of all axes, above the figure."""
    entries: dict[str, Artist] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        entries |= zip(labels, handles, strict=True)
    drawn.legend(entries.values(), entries.keys(), loc="outside upper left", ncols=2, fontsize=8)

"""Pictures of a comparison, each the answer to one question. They are drawn once for light and dark pages: ink and grid
take the colours of the page that an SVG stands in."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from loaderlab import metrics
from loaderlab.compare.arms import ComparedArm, Comparison, Group
from loaderlab.compare.axes import curve, grid, hidden_gains
from loaderlab.compare.stats import median
from loaderlab.report import sentences
from loaderlab.report.step_picture import COLOURS, PARTS
from loaderlab.report.table import METRIC_COLUMN, NUMBERS, in_order

mpl.use("Agg")
import matplotlib.pyplot as plt

INK, GRID, PAPER = "#1b1f24", "#d5d9de", "#fdfdfe"  # replaced by the page's own in an SVG
CYCLE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#8C6D31",
    "#6A51A3",
)  # Okabe and Ito's, two more
DASHES = ("-", "--", "-.", ":")
TOO_DARK = (("#0072b2", "--blue"), ("#6a51a3", "--violet"))  # on a dark page: there lighter
MOST_LINES = 8  # arms in a picture with a line each
MOST_BARS = 40
POINTS = 300  # of a line: a stall stays visible, since a bin shows its worst
STYLE: Any = {
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "axes.grid": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "font.size": 9,
    "svg.fonttype": "path",  # the reader's machine need not have the font: no label is cut
    "text.parse_math": False,  # a dollar in a label is a dollar
}


@dataclass(frozen=True)
class Series:
    """Every step of one run: arrays of one length, and the seconds since the loop began, evaluation left out."""

    seconds: np.ndarray
    samples: np.ndarray
    step_ms: np.ndarray
    wait_ms: np.ndarray
    loss: np.ndarray


@dataclass(frozen=True)
class Chart:
    """A picture: its file's name, the question that it answers, what to see, as SVG for a page and as PNG."""

    name: str
    title: str
    caption: str
    svg: str


def read_steps(text: str) -> Series | None:
    """The ``steps.csv`` of a run; None where it has no steps."""
    rows = list(csv.DictReader(io.StringIO(text)))
    if not rows:
        return None
    host = np.array(
        [[float(row[name]) for name in row if name.startswith("host_") and name.endswith("_ms")] for row in rows]
    )
    step_ms = host.sum(axis=1)
    return Series(
        seconds=np.cumsum(step_ms) / 1e3,
        samples=np.cumsum([int(row["num_samples"]) for row in rows]),
        step_ms=step_ms,
        wait_ms=host[:, 0],
        loss=np.array([float(row["loss"]) for row in rows]),
    )


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
        arms = _few(group)
        known = {id(arm): found for arm in arms if (found := series(arm.representative.run_id)) is not None}
        jobs: list[tuple[str, str, str, Any]] = []
        if comparison.is_ladder and comparison.metric == metrics.TRAIN_S:
            jobs.append(("ladder", "What did each rung bring?", LADDER, lambda group=group: _ladder(group, comparison)))
        ceiling = comparison.metric == metrics.RATE and any(
            arm.settled(metrics.CEILING_RATE) for arm in group.arms if not arm.is_ceiling
        )
        asks = "Which arm is better" + (", and how near is it to its ceiling?" if ceiling else "?")
        jobs.append(("throughput", asks, THROUGHPUT + CEILING * ceiling + BARS, lambda group=group: _throughput(group)))
        if hidden_gains(grid(group, comparison.columns)):
            jobs.append(
                (
                    "precision",
                    "How much of a precision's gain does the loader hide?",
                    HIDDEN,
                    lambda group=group: _hidden(group, comparison),
                )
            )
        if curve(group, comparison.columns):
            jobs.append(
                (
                    "workers",
                    "How many workers, and what do they cost?",
                    WORKERS,
                    lambda group=group: _curve(group, comparison),
                )
            )
        if any(arm.median(metrics.WAIT_MS) is not None for arm in group.arms):
            jobs.append(("phases", "Where does a step's time go?", PHASES, lambda group=group: _phases(group)))
        if any(np.isfinite(found.loss).any() for found in known.values()):
            jobs.append(
                (
                    "loss",
                    "Did they learn the same, and how soon?",
                    LOSS,
                    lambda arms=arms, known=known: _loss(arms, known),
                )
            )
        if known:
            jobs.append(("waits", "When did they wait?", WAITS, lambda arms=arms, known=known: _waits(arms, known)))
        if any(arm.median(metrics.HOST_PEAK_MIB) for arm in group.arms) and len(group.arms) > 1:
            better = "Up" if metrics.higher_is_better(comparison.metric) else "Down"
            jobs.append(
                (
                    "cost",
                    "What does the speed cost?",
                    f"{COST} {better} and to the left is better.{BARS}",
                    lambda group=group: _cost(group),
                )
            )
        for name, title, caption, make in jobs:
            with mpl.rc_context(STYLE):
                figure = make()
                figure.draw_without_rendering()
                figure.set_layout_engine("none")  # found once; each saving would look for it twice
                figure.savefig(folder / f"{name}{suffix}.png", dpi=110, facecolor="white")
                if not charts:
                    shutil.copy(folder / f"{name}{suffix}.png", folder / main)
                caption = caption.format(drawn=_drawn(group, arms), bars=_cut_short(group))
                charts.append(Chart(name + suffix, title, caption, _svg(figure, title)))
                plt.close(figure)
    return charts


THROUGHPUT = "Bars are medians over the runs, each run a dot, the line the 95 % interval of the arm's own centre (from three runs on)."
BARS = "{bars}"  # that not all arms are drawn, where so
CEILING = " The thick mark is the arm's ceiling: the same step with its batches at hand."
LADDER = "The whole training loop of each rung; orange is the share of its measured window in which the loop waited for data."
HIDDEN = "Gain over the first precision, with a bar for the same step on batches at hand and one for the loader as it is. Where the second is shorter, the loader hides the difference."
WORKERS = "Left, medians with the interval of each count; right, the memory of all processes. The ring marks the knee, from three rounds on: the fewest that come within 5 % of the best."
PHASES = "Mean of a step in the measured window, cut into what the loop does; orange is waiting for data. Of each arm the run in the middle, whose parts add up to its step.{bars}"
LOSS = "Training loss of the run in the middle of each arm{drawn}, over the time in the loop and over the samples seen. Where the right-hand lines lie on each other, the arms learn the same; the left-hand side shows who is sooner there."
WAITS = "Each step's length in grey and, in orange, how much of it was waiting, over the time in the loop; the run in the middle of each arm{drawn}. A bin shows its longest step."
COST = "Each dot is an arm: what it takes against what it gives."


def _few(group: Group, most: int = MOST_LINES) -> Sequence[ComparedArm]:
    """The arms that get a line or a bar of their own: the baseline and the fastest."""
    arms = group.arms
    if len(arms) <= most:
        return arms
    sign = -1 if metrics.higher_is_better(arms[0].metric) else 1
    best = sorted(arms, key=lambda arm: sign * median(arm.values))[:most]
    kept = best if group.baseline is None or group.baseline in best else [group.baseline, *best[:-1]]
    return [arm for arm in arms if arm in kept]


def _short_gain(arm: ComparedArm) -> str:
    if arm.gain is None:
        return ""
    if arm.gain.low is None:
        return f"{arm.gain.value:.2f}x (n = {arm.gain.num_pairs})"
    return f"{arm.gain.value:.2f}x" + ("" if arm.gain.shown else " (n.d.s.)")


def _cut_short(group: Group) -> str:
    more = len(group.arms) - MOST_BARS
    return f" The baseline and the best are drawn, {MOST_BARS} arms of {len(group.arms)}." if more > 0 else ""


def _drawn(group: Group, arms: Sequence[ComparedArm]) -> str:
    return f" (the baseline and the fastest, {len(arms)} of {len(group.arms)})" if len(arms) < len(group.arms) else ""


def _svg(figure: Any, title: str) -> str:
    """One element for a page: its ink follows the page's light or dark."""
    out = io.StringIO()
    figure.savefig(
        out, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    text = out.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in ((INK, "--ink"), (GRID, "--line"), (PAPER, "--paper"), *TOO_DARK):
        text = text.replace(colour, f"var({variable})")
    return text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)


def _bars(count: int, width: float = 8.6, extra: float = 1.1) -> tuple[Any, Any]:
    figure, axis = plt.subplots(figsize=(width, 0.42 * count + extra), layout="constrained")
    return figure, axis


def _names(axis: Any, labels: Sequence[str]) -> None:
    """Rows from the top, each with its name in place of a tick."""
    axis.set_yticks(range(len(labels)), labels)
    axis.invert_yaxis()
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)


def _cut(label: str, length: int = 46) -> str:
    return label if len(label) <= length else label[: length - 1] + "…"


def _throughput(group: Group) -> Any:
    arms = _few(group, MOST_BARS)
    metric = arms[0].metric
    figure, axis = _bars(len(arms))
    ceilings = [arm.settled(metrics.CEILING_RATE) if metric == metrics.RATE else None for arm in arms]
    for row, (arm, ceiling) in enumerate(zip(arms, ceilings, strict=True)):
        middle = median(arm.values)
        axis.barh(row, middle, height=0.62, color="#7F8C99" if arm.is_ceiling else CYCLE[0], alpha=0.9)
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
    furthest = max(
        max(max(arm.values), ceiling or 0, *((arm.interval or (0, 0))[1],))
        for arm, ceiling in zip(arms, ceilings, strict=True)
    )
    furthest = min(
        furthest, 2.5 * max(max(max(arm.values), ceiling or 0) for arm, ceiling in zip(arms, ceilings, strict=True))
    )
    for row, arm in enumerate(arms):
        text = NUMBERS.get(metric, "{:g}").format(median(arm.values))
        text += "  baseline" if arm.partner is None and arm is group.baseline else ""
        text += f"  {_short_gain(arm)}"
        axis.text(furthest * 1.04, row, text, va="center", fontsize=8.5)
    _names(axis, [_cut(arm.label) for arm in arms])
    axis.set(
        xlabel=sentences.UNITS.get(metric, METRIC_COLUMN.get(metric, metric)).split("} ")[-1], xlim=(0, furthest * 1.3)
    )
    axis.grid(axis="x", linewidth=0.6)
    axis.set_axisbelow(True)
    handles = [Line2D([], [], color=CYCLE[1], linewidth=3, label="ceiling")] if any(ceilings) else []
    if any(arm.interval for arm in arms):
        handles.append(Line2D([], [], color=INK, linewidth=1.2, label="95 % interval"))
    handles.append(
        Line2D([], [], linestyle="", marker="o", color=PAPER, markeredgecolor=INK, markersize=4, label="a run")
    )
    if any(arm.gain is not None and arm.gain.low is not None and not arm.gain.shown for arm in arms):
        handles.append(Line2D([], [], linestyle="", label="n.d.s.: no difference shown"))
    axis.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize=8, borderaxespad=0)
    return figure


def _ladder(group: Group, comparison: Comparison) -> Any:
    rungs = in_order(comparison, group)
    figure, axis = _bars(len(rungs))
    furthest = max(arm.median(metrics.TRAIN_S) or 0.0 for arm in group.arms)
    for row, (_, arm) in enumerate(rungs):
        if arm is None:
            axis.text(0, row, " not applicable here", va="center", fontsize=8.5, style="italic")
            continue
        seconds = arm.median(metrics.TRAIN_S) or 0.0
        share = (arm.median(metrics.WAIT_PCT) or 0.0) / 100
        axis.barh(row, seconds * share, height=0.66, color=COLOURS["wait"])
        axis.barh(row, seconds * (1 - share), left=seconds * share, height=0.66, color=CYCLE[0])
        gain = _short_gain(arm) or ("the first" if arm.is_baseline else "–")
        axis.text(seconds, row, f"  {seconds:.2f} s   {gain}   waits {100 * share:.0f} %", va="center", fontsize=8.5)
    _names(axis, [_cut(label) for label, _ in rungs])
    axis.set(
        xlabel="training loop, median, s (n.d.s.: no difference to the first shown)", xlim=(0, 1.42 * furthest or 1)
    )
    axis.grid(axis="x", linewidth=0.6)
    axis.set_axisbelow(True)
    handles = [
        Patch(color=COLOURS["wait"], label="waiting for data"),
        Patch(color=CYCLE[0], label="the rest of the loop"),
    ]
    axis.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=8, borderaxespad=0)
    return figure


def _phases(group: Group) -> Any:
    arms = _few(group, MOST_BARS)
    figure, axis = _bars(len(arms), extra=1.3)
    for row, arm in enumerate(arms):
        left = 0.0
        for part in PARTS:
            width = arm.representative.figures.get(metrics.PHASE_MS[part])
            if width is None:
                continue
            named = part if not any(artist.get_label() == part for artist in axis.containers) else None
            axis.barh(row, width, left=left, height=0.66, color=COLOURS[part], label=named)
            left += width
        axis.text(left, row, f"  {left:.2f} ms", va="center", fontsize=8.5)
    _names(axis, [_cut(arm.label) for arm in arms])
    axis.margins(x=0.14)
    axis.set_xlim(left=0)
    axis.set(xlabel="mean step of the run in the middle, ms")
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=7, fontsize=8, borderaxespad=0, handlelength=1.2)
    return figure


def _hidden(group: Group, comparison: Comparison) -> Any:
    told = hidden_gains(grid(group, comparison.columns))
    figure, axis = _bars(2 * len(told))
    for row, entry in enumerate(told):
        for offset, found, colour, hatch in (
            (-0.2, entry.at_ceiling, "#9AA5B1", ""),
            (0.2, entry.with_loader, CYCLE[0], ""),
        ):
            axis.barh(row + offset, found.value, height=0.36, color=colour, hatch=hatch)
            if found.low is not None:
                axis.plot([found.low, found.high], [row + offset] * 2, color=INK, linewidth=1.2)
            axis.text(
                max(found.value, found.high or 0), row + offset, f"  {found.value:.2f}x", va="center", fontsize=8.5
            )
    axis.axvline(1, color=INK, linewidth=0.9, linestyle="--")
    _names(axis, [f"{entry.precision} over {entry.over}\nwith {entry.loader}" for entry in told])
    axis.set(xlabel="gain, times", xlim=(0, None))
    axis.margins(x=0.12)
    handles = [
        Patch(color="#9AA5B1", label="at the ceiling"),
        Patch(color=CYCLE[0], label="with the loader"),
    ]
    axis.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=8, borderaxespad=0)
    return figure


def _curve(group: Group, comparison: Comparison) -> Any:
    told = curve(group, comparison.columns)
    assert told is not None
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.2), gridspec_kw={"wspace": 0.06}, layout="constrained")
    counts = [count for count, _ in told.arms]
    middles = [median(arm.values) for _, arm in told.arms]
    places = range(len(counts))
    for place, (_, arm) in enumerate(told.arms):
        if arm.interval is not None:
            left.plot([place, place], np.clip(arm.interval, 0, 2.5 * max(middles)), color=INK, linewidth=1.2)
        left.plot([place] * len(arm.values), arm.values, "o", color=PAPER, markeredgecolor=INK, markersize=4)
    left.plot(places, middles, "-", color=CYCLE[0], linewidth=1.8, label="median")
    ceilings = [arm.settled(metrics.CEILING_RATE) for _, arm in told.arms]
    if told.arms[0][1].metric == metrics.RATE and any(ceilings):
        left.plot(
            places,
            [value if value is not None else np.nan for value in ceilings],
            "--",
            color=CYCLE[1],
            label="ceiling",
        )
    if told.settled:
        knee = counts.index(told.knee[0])
        left.plot(
            [knee],
            [middles[knee]],
            "o",
            color="none",
            markeredgecolor=CYCLE[2],
            markersize=14,
            markeredgewidth=2,
            label="knee",
        )
    what = told.setting.rpartition(".")[2].removeprefix("num_")
    unit = sentences.UNITS.get(told.arms[0][1].metric, "} ").split("} ")[-1]
    left.set(xlabel=what, ylabel=unit, ylim=(0, None))
    right.plot(places, [arm.median(metrics.HOST_PEAK_MIB) or np.nan for _, arm in told.arms], "-o", color=CYCLE[3])
    right.set(xlabel=what, ylabel="host memory, MiB", ylim=(0, 1.1 * right.get_ylim()[1]))
    for axis in (left, right):
        axis.set_xticks(places, counts)
        axis.grid(axis="y", linewidth=0.6)
    left.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=8, borderaxespad=0)
    return figure


def _loss(arms: Sequence[ComparedArm], known: Mapping[int, Series]) -> Any:
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.4), sharey=True, layout="constrained")
    for number, arm in enumerate(arms):
        found = known.get(id(arm))
        if found is None or not np.isfinite(found.loss).any():
            continue
        line = {"color": CYCLE[number % len(CYCLE)], "linestyle": DASHES[number % len(DASHES)], "linewidth": 1.3}
        for axis, x in zip(axes, (found.seconds, found.samples), strict=True):
            places, values = _binned(x, found.loss, np.nanmean)
            axis.plot(places, values, label=_cut(arm.label, 30), **line)
    axes[0].set(xlabel="time in the loop, s", ylabel="training loss", xlim=(0, None))
    axes[1].set(xlabel="samples seen", xlim=(0, None))
    axes[1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes[1].xaxis.set_major_locator(MaxNLocator(5))
    for axis in axes:
        axis.grid(linewidth=0.6)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=min(4, max(1, 120 // max(30, *map(len, labels), 1))),
        fontsize=8,
    )
    return figure


def _waits(arms: Sequence[ComparedArm], known: Mapping[int, Series]) -> Any:
    arms = [arm for arm in arms if id(arm) in known]
    figure, axes = plt.subplots(
        len(arms),
        1,
        figsize=(8.6, 0.95 * len(arms) + 0.9),
        sharex=True,
        sharey=True,
        layout="constrained",
        squeeze=False,
    )
    tallest = max(float(np.percentile(known[id(arm)].step_ms, 98)) for arm in arms)
    for axis, arm in zip(axes[:, 0], arms, strict=True):
        found = known[id(arm)]
        for values, colour, label in (
            (found.step_ms, "#B4BCC5", "step"),
            (found.wait_ms, COLOURS["wait"], "of it waiting"),
        ):
            ends, heights = _binned(found.seconds, values, np.nanmax)
            places, heights = np.concatenate([[0.0], ends]), np.concatenate([heights[:1], heights])
            axis.fill_between(places, heights, color=colour, linewidth=0, step="pre", label=label)
        axis.set_title(_cut(arm.label, 80), loc="left", fontsize=8.5, pad=2)
        axis.set(ylim=(0, 1.15 * tallest or 1), ylabel="ms")
        axis.margins(x=0)
    axes[-1, 0].set(xlabel="time in the loop, s")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2, fontsize=8)
    return figure


def _cost(group: Group) -> Any:
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.4), sharey=True, layout="constrained")
    arms = _few(group, MOST_BARS)
    for axis, metric, label in (
        (axes[0], metrics.HOST_PEAK_MIB, "host memory, MiB"),
        (axes[1], metrics.CPU_PCT, "of the cores in use, %"),
    ):
        for number, arm in enumerate(arms):
            if (value := arm.median(metric)) is not None:
                marker = "osD^vP*X"[number // len(CYCLE) % 8]
                axis.plot(
                    value,
                    median(arm.values),
                    marker,
                    color=CYCLE[number % len(CYCLE)],
                    markersize=8,
                    markeredgecolor=INK,
                    label=_cut(arm.label, 30),
                )
        furthest = max((arm.median(metric) or 0.0 for arm in arms), default=0.0)
        axis.set(xlabel=label, xlim=(0, 1.12 * furthest or 1), ylim=(0, 1.12 * max(median(arm.values) for arm in arms)))
        axis.grid(linewidth=0.6)
    axes[0].set(ylabel=sentences.UNITS.get(arms[0].metric, "} ").split("} ")[-1])
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=min(4, max(1, 120 // max(30, *map(len, labels), 1))),
        fontsize=8,
    )
    return figure


def _binned(x: np.ndarray, values: np.ndarray, join: Callable[[np.ndarray], Any]) -> tuple[np.ndarray, np.ndarray]:
    """At most `POINTS` bins of equal numbers of steps: the end of each and what its values join to."""
    chunks = np.array_split(np.arange(len(x)), min(POINTS, len(x)))
    kept = [chunk for chunk in chunks if np.isfinite(values[chunk]).any()]
    return np.array([x[chunk[-1]] for chunk in kept]), np.array([join(values[chunk]) for chunk in kept])

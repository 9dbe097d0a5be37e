"""The pictures of a job of several ranks: the waits of each rank over time, and the mean step of each rank."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from loaderlab import metrics
from loaderlab.compare.marks import marked
from loaderlab.diagnosis.ranks import RankSteps, Straggler
from loaderlab.report.chart_style import INK, in_style
from loaderlab.report.part_colours import COLOURS

MS = metrics.metric(metrics.STEP_MS).unit
COLUMNS = 200  # of the heat map, at most
ROWS = 128  # at most; of more ranks, each row shows the slowest of several
NAMED = 16  # with more ranks, only some numbers are written
LEAST_TOP = 0.25  # of the step: the darkest colour stands for at least this wait, so that short waits look short
UNMEASURED = "#E3E6EA"
WAITS = LinearSegmentedColormap.from_list("waits", ["#FFFFFF", COLOURS["wait"], "#5A2600"])


class Parts(NamedTuple):
    """A mean step of a rank, ms."""

    starved: float
    compute: float
    others: float


def waits_by_rank(path: Path, title: str, ranks: Sequence[RankSteps], *, emulated: bool = False) -> None:
    """Writes a PNG: the starved time per step of each rank (rows) over the steps (columns).

    Args:
        title: of the picture; usually the verdict.
        ranks: with at least one step in total. Cells without measured steps are grey.
        emulated: on an emulated accelerator; the picture says so.
    """
    edges = _edges(ranks)
    values = np.array([_means(rank, edges) for rank in ranks])
    groups = _groups(len(ranks))
    rows = np.fmax.reduceat(values, groups, axis=0)
    with in_style():
        figure, axis = _canvas(title, min(7.0, max(2.8, 1.6 + 0.24 * len(rows))))
        top = max(
            1e-9,
            LEAST_TOP * max(float(rank.length_ms.mean()) for rank in ranks if len(rank.step)),
            float(np.nanmax(rows)),
        )
        # a row is as high as the number of its ranks, so that the axis counts ranks
        mesh = axis.pcolormesh(edges, [*groups, len(ranks)], np.ma.masked_invalid(rows), cmap=WAITS, vmin=0, vmax=top)
        figure.colorbar(mesh, ax=axis, label=f"{marked('device starved', emulated=emulated)}, {MS} per step", pad=0.01)
        axis.set_facecolor(UNMEASURED)  # cells without a value are transparent
        axis.set(xlabel="step", xlim=(edges[0], edges[-1]), ylim=(len(ranks), 0))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(ranks) <= NAMED:
            axis.set_yticks(np.arange(len(ranks)) + 0.5, [_name(rank, " ") for rank in ranks])
            axis.tick_params(axis="y", length=0)
        else:
            _count(axis, "y", ranks, groups)
        figure.savefig(path, dpi=110, metadata={"Title": title})


def bars_by_rank(
    path: Path, title: str, ranks: Sequence[RankSteps], straggler: Straggler | None, *, emulated: bool = False
) -> None:
    """Writes a PNG: one bar for the mean step of each rank, with starved time, own compute, and the wait for the others.

    Args:
        straggler: is marked.
        path, title, ranks, emulated: see `waits_by_rank`.
    """
    parts = np.array([_parts(rank) for rank in ranks])
    groups = _groups(len(ranks))
    sizes = np.diff([*groups, len(ranks)])
    own = parts[:, 0] + parts[:, 1]
    slowest = [int(first + own[first : first + size].argmax()) for first, size in zip(groups, sizes, strict=True)]
    shown, places = parts[slowest], groups + sizes / 2
    with in_style():
        figure, axis = _canvas(title, 3.6)
        bottom = np.zeros(len(shown))
        for index, (label, colour) in enumerate(
            (
                (marked("device starved", emulated=emulated), COLOURS["wait"]),
                ("own compute", COLOURS["forward"]),
                ("in collectives: waits for other ranks, exchanges gradients", COLOURS["other"]),
            )
        ):
            width = 0.8 if len(shown) <= ROWS // 2 else 1.0
            axis.bar(places, shown[:, index], width * sizes, bottom, color=colour, label=label, linewidth=0)
            bottom += shown[:, index]
        axis.set(ylabel=f"mean step, {MS}", xlim=(0, len(ranks)), ylim=(0, 1.12 * float(bottom.max()) or 1))
        if len(ranks) <= NAMED:
            axis.set_xticks(places, [_name(rank, "\n") for rank in ranks])
            axis.tick_params(axis="x", length=0)
        else:
            _count(axis, "x", ranks, groups)
        if straggler is not None and straggler.rank is not None:
            _mark(axis, [rank.rank for rank in ranks].index(straggler.rank), straggler, places, groups, bottom)
        figure.legend(loc="outside lower center", ncols=3, fontsize=8)
        figure.savefig(path, dpi=110, metadata={"Title": title})


def _canvas(title: str, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9, height), layout="constrained")
    figure.suptitle(title, fontsize=10, x=0.01, ha="left", wrap=True)
    return figure, figure.subplots()


def _groups(count: int) -> np.ndarray:
    """The index of the first rank of each row."""
    return np.arange(0, count, -(-count // ROWS))


def _edges(ranks: Sequence[RankSteps]) -> np.ndarray:
    """The step at which each column begins, and the end of the last."""
    known = [rank.step for rank in ranks if len(rank.step)]
    first, end = min(int(step[0]) for step in known), max(int(step[-1]) for step in known) + 1
    return np.unique(np.linspace(first, end, min(COLUMNS, end - first) + 1).round().astype(np.int64))


def _means(rank: RankSteps, edges: np.ndarray) -> np.ndarray:
    """The mean starved time per step of each column; NaN without measured steps."""
    columns = np.searchsorted(edges, rank.step, side="right") - 1
    count = np.bincount(columns, minlength=len(edges) - 1)
    total = np.bincount(columns, rank.starved_ms, minlength=len(edges) - 1)
    return np.where(count > 0, total / np.maximum(1, count), np.nan)


def _parts(rank: RankSteps) -> Parts:
    if not len(rank.step):
        return Parts(0.0, 0.0, 0.0)
    starved, own, length = (float(values.mean()) for values in (rank.starved_ms, rank.own_ms, rank.length_ms))
    return Parts(starved, own - starved, max(0.0, length - own))


def _name(rank: RankSteps, separator: str) -> str:
    return f"rank {rank.rank}{separator}{rank.node}".strip()


def _count(axis: Axes, which: str, ranks: Sequence[RankSteps], groups: np.ndarray) -> None:
    """Numbers an axis of many ranks, and says how many a row or bar stands for."""
    of = axis.xaxis if which == "x" else axis.yaxis
    of.set_major_locator(MaxNLocator(8, integer=True))
    of.set_major_formatter(FuncFormatter(lambda place, _: f"{ranks[min(len(ranks) - 1, int(place))].rank:,}"))
    size = -(-len(ranks) // len(groups))
    of.set_label_text("rank" if size == 1 else f"rank (the slowest of each {size})")


def _mark(
    axis: Axes, index: int, straggler: Straggler, places: np.ndarray, groups: np.ndarray, heights: np.ndarray
) -> None:
    """Marks the bar that contains the straggler. ``index``: its place among the ranks; ``groups``: the first place of each bar."""
    row = int(np.searchsorted(groups, index, side="right")) - 1
    place, text = (places[row], heights[row]), f"rank {straggler.rank} is the straggler ({straggler.cause})"
    right = place[0] > axis.get_xlim()[1] / 2  # the text stays inside the picture
    axis.annotate("▼", place, ha="center", va="bottom", color=INK)
    axis.annotate(
        text, place, (-9 if right else 9, 2), textcoords="offset points", ha="right" if right else "left", va="bottom"
    )

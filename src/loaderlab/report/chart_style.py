"""The style of every picture. Neither this file nor those that draw change matplotlib's global state.

One picture serves light and dark pages: in an SVG, text and grid take the colours of the page.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, GRID, PAPER = "#1b1f24", "#d5d9de", "#fdfdfe"  # an SVG replaces them by the page's colours
CYCLE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#8C6D31",
    "#6A51A3",
)  # Okabe and Ito's palette and two more
DASHES = ("-", "--", "-.", ":")
MARKERS = "osD^vP*X"
TOO_DARK = (("#0072b2", "--blue"), ("#6a51a3", "--violet"))  # a dark page uses lighter ones
WIDTH = 8.6  # inches
HEADING = 0.3  # inches
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
    "svg.fonttype": "path",  # labels look the same if the reader's machine does not have the font
    "text.parse_math": False,  # a dollar sign in a label does not start a formula
}


def in_style() -> AbstractContextManager[None]:
    """A context for drawing and saving; it restores matplotlib's settings afterwards."""
    return mpl.rc_context(STYLE)


def figure(height: float) -> Figure:
    """An empty figure, as wide as all pictures.

    Args:
        height: in inches.
    """
    return Figure(figsize=(WIDTH, height), layout="constrained")


def rows_figure(count: int, extra: float = 1.1) -> tuple[Figure, Axes]:
    """A figure for ``count`` rows, with ``extra`` inches for the axis and the legend."""
    drawn = figure(0.42 * count + extra)
    return drawn, drawn.subplots()


def name_rows(axis: Axes, labels: Sequence[str]) -> None:
    """Orders the rows from the top, each with its name instead of a tick."""
    axis.set_yticks(range(len(labels)), labels)
    axis.invert_yaxis()
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)


def cut(label: str, length: int = 46) -> str:
    """The label, shortened to at most ``length`` characters."""
    return label if len(label) <= length else label[: length - 1] + "…"


def add_heading(drawn: Figure, text: str) -> None:
    """Adds a line of text above a figure whose layout is done, and makes the figure higher by that line."""
    width, height = drawn.get_size_inches()
    share = height / (height + HEADING)
    drawn.set_size_inches(width, height + HEADING)
    for axis in drawn.axes:
        place = axis.get_position()
        axis.set_position((place.x0, place.y0 * share, place.width, place.height * share))
    for legend in drawn.legends:  # one that is outside of the axes is placed relative to the figure
        legend.set_bbox_to_anchor((0, 0, 1, share), transform=drawn.transFigure)
    drawn.suptitle(text, x=0.01, y=1 - 0.06 / height, ha="left", va="top", fontsize=9, fontweight="bold")


def legend_above(drawn: Figure, axis: Axes) -> None:
    """Adds the labels of one axis as a legend above the figure, in as many columns as fit."""
    handles, labels = axis.get_legend_handles_labels()
    columns = min(4, max(1, 120 // max(30, *map(len, labels), 1)))
    drawn.legend(handles, labels, loc="outside upper left", ncols=columns, fontsize=8)


def svg(drawn: Figure, title: str) -> str:
    """The picture as an SVG element for a page; its text colour follows the page's light or dark mode."""
    out = io.StringIO()
    no_metadata: Any = {"Date": None, "Creator": None, "Format": None, "Type": None}
    drawn.savefig(out, format="svg", transparent=True, metadata=no_metadata)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in ((INK, "--ink"), (GRID, "--line"), (PAPER, "--paper"), *TOO_DARK):
        text = text.replace(colour, f"var({variable})")
    return text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)

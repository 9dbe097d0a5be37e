"""How every picture looks. Nothing here or in the files that draw changes matplotlib's global state.

Pictures are drawn once for light and dark pages: ink and grid take the colours of the page that an SVG stands in.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
MARKERS = "osD^vP*X"
TOO_DARK = (("#0072b2", "--blue"), ("#6a51a3", "--violet"))  # on a dark page: there lighter
PARTS = ("wait", "transfer", "forward", "backward", "optimizer", "compute", "other")  # of a step, in the order drawn
COLOURS = {  # of the parts; Okabe and Ito's palette: colour-blind readers can tell them apart too
    "wait": "#D55E00",
    "transfer": "#E69F00",
    "forward": "#56B4E9",
    "backward": "#CC79A7",
    "optimizer": "#009E73",
    "compute": "#CC79A7",
    "other": "#BBBBBB",
}
WIDTH = 8.6  # inches
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


def in_style() -> AbstractContextManager[None]:
    """Draw and save inside: matplotlib's own settings are back afterwards."""
    return mpl.rc_context(STYLE)


def figure(height: float) -> Figure:
    """An empty one, of the width of all pictures.

    Args:
        height: in inches.
    """
    return Figure(figsize=(WIDTH, height), layout="constrained")


def rows_figure(count: int, extra: float = 1.1) -> tuple[Figure, Axes]:
    """One as tall as its rows need, and ``extra`` inches for the axis and the legend."""
    drawn = figure(0.42 * count + extra)
    return drawn, drawn.subplots()


def name_rows(axis: Axes, labels: Sequence[str]) -> None:
    """Rows from the top, each with its name in place of a tick."""
    axis.set_yticks(range(len(labels)), labels)
    axis.invert_yaxis()
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)


def cut(label: str, length: int = 46) -> str:
    """A label of at most ``length`` characters."""
    return label if len(label) <= length else label[: length - 1] + "…"


def legend_above(drawn: Figure, axis: Axes) -> None:
    """The labels of one axis over the whole figure, in as many columns as they fit in."""
    handles, labels = axis.get_legend_handles_labels()
    columns = min(4, max(1, 120 // max(30, *map(len, labels), 1)))
    drawn.legend(handles, labels, loc="outside upper left", ncols=columns, fontsize=8)


def svg(drawn: Figure, title: str) -> str:
    """One element for a page: its ink follows the page's light or dark."""
    out = io.StringIO()
    no_metadata: Any = {"Date": None, "Creator": None, "Format": None, "Type": None}
    drawn.savefig(out, format="svg", transparent=True, metadata=no_metadata)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in ((INK, "--ink"), (GRID, "--line"), (PAPER, "--paper"), *TOO_DARK):
        text = text.replace(colour, f"var({variable})")
    return text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)

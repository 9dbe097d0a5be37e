"""The parts of a step and their colours, for pictures and pages. It does not import matplotlib."""

from __future__ import annotations

PARTS = ("wait", "transfer", "forward", "backward", "optimizer", "compute", "other")  # of a step, in drawing order
COLOURS = {  # of the parts; Okabe and Ito's palette, which colour-blind readers can distinguish
    "wait": "#D55E00",
    "transfer": "#E69F00",
    "forward": "#56B4E9",
    "backward": "#CC79A7",
    "optimizer": "#009E73",
    "compute": "#CC79A7",
    "other": "#BBBBBB",
}

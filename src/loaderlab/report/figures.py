"""Pictures of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PARTS = ("wait", "transfer", "forward", "backward", "optimizer", "other")
COLOURS = {  # Okabe and Ito's palette: told apart by colour-blind readers too
    "wait": "#D55E00",
    "transfer": "#E69F00",
    "forward": "#56B4E9",
    "backward": "#0072B2",
    "optimizer": "#009E73",
    "other": "#BBBBBB",
}


def breakdown(
    path: Path, title: str, figures: Mapping[str, float], waits_ms: Sequence[float], steps_ms: Sequence[float], losses: Sequence[float]
) -> None:  # fmt: skip
    """Where a mean step's time goes, each step's wait within its length, and the loss, as one PNG.

    Args:
        path: the file.
        figures: the summary; the parts of the step are read from it.
        waits_ms, steps_ms, losses: of every step, warm-up included.
    """
    figure, (bar, series, loss) = plt.subplots(3, 1, figsize=(9, 7.5), height_ratios=(1.1, 2, 2), layout="constrained")
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    left = 0.0
    for part in PARTS:
        width = figures.get(f"time/{part}_ms", 0.0)
        bar.barh(0, width, left=left, color=COLOURS[part], label=f"{part} {width:.2f} ms")
        left += width
    bar.set(yticks=[], xlabel="mean step of the measured window, ms", xlim=(0, left or 1))
    bar.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=6, frameon=False, fontsize=8)
    steps = range(len(steps_ms))
    series.plot(steps, steps_ms, color="#777777", linewidth=0.8, label="step")
    series.fill_between(steps, waits_ms, color=COLOURS["wait"], alpha=0.8, linewidth=0, label="wait for the batch")
    series.set(ylabel="ms", xlim=(0, max(1, len(steps_ms) - 1)), ylim=(0, None))
    series.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False, fontsize=8)
    loss.plot(range(len(losses)), losses, color=COLOURS["backward"], linewidth=0.9)
    loss.set(xlabel="step", ylabel="training loss", xlim=(0, max(1, len(losses) - 1)))
    for axes in (bar, series, loss):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)

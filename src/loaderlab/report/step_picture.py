"""The picture of one run: how the time of its steps is spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from loaderlab import metrics
from loaderlab.compare.marks import marked
from loaderlab.report.part_colours import COLOURS, PARTS

if TYPE_CHECKING:  # this import needs torch, and a comparison should not
    from loaderlab.meter.step import Step


def breakdown(
    path: Path, title: str, figures: Mapping[str, float], steps: Sequence[Step], *, emulated: bool = False
) -> None:
    """Writes one PNG: the parts of a mean step, each step's length and wait, and the loss.

    Args:
        path: the file to write.
        title: of the picture; usually the verdict.
        figures: the run's metrics, from which the parts of the step are read.
        steps: all steps, including warm-up. Without losses there is no third plot.
        emulated: on an emulated accelerator; the legend says so.
    """
    losses = [entry.loss for entry in steps]
    with_loss = any(loss == loss for loss in losses)
    ratios = (1.1, 2, 2) if with_loss else (1.1, 2)
    figure = Figure(figsize=(9, 7.5 if with_loss else 5), layout="constrained")
    axes = figure.subplots(len(ratios), 1, height_ratios=ratios)
    step_ms = metrics.metric(metrics.STEP_MS).unit
    bar, series = axes[0], axes[1]
    figure.suptitle(title, fontsize=10, x=0.01, ha="left", wrap=True)
    left = 0.0
    for part in PARTS:
        metric = metrics.metric(metrics.PHASE_MS[part])
        width = figures.get(metric.name)
        if width is None:
            continue
        bar.barh(0, width, left=left, color=COLOURS[part], label=f"{part} {metric.quantity(width)}")
        left += width
    bar.set(yticks=[], xlabel=f"mean step of the measured window, {step_ms}", xlim=(0, left or 1))
    if left:
        bar.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=6, frameon=False, fontsize=8)
    count = range(len(steps))
    series.plot(count, [entry.length_ms for entry in steps], color="#777777", linewidth=0.8, label="step")
    waits = [entry.host[0] / 1e6 for entry in steps]
    if any(entry.device is not None for entry in steps):  # two clocks: a waiting host need not starve the device
        series.plot(count, waits, color=COLOURS["other"], linewidth=0.8, label="host waits for the batch")
        series.fill_between(
            count,
            [entry.starved_ms for entry in steps],
            color=COLOURS["wait"],
            alpha=0.8,
            linewidth=0,
            label=marked("device starved", emulated=emulated),
        )
    else:
        series.fill_between(count, waits, color=COLOURS["wait"], alpha=0.8, linewidth=0, label="wait for the batch")
    # a first batch or a compilation may take a thousand times as long as a step and would flatten all others
    tallest = float(np.percentile([entry.length_ms for entry in steps], 95)) if steps else 1.0
    series.set(xlabel="step", ylabel=step_ms, xlim=(0, max(1, len(steps) - 1)), ylim=(0, 1.6 * tallest or 1))
    series.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, frameon=False, fontsize=8)
    if with_loss:
        axes[2].plot(range(len(losses)), losses, color=COLOURS["backward"], linewidth=0.9)
        axes[2].set(
            xlabel="step", ylabel=metrics.metric(metrics.TRAIN_LOSS).short_label, xlim=(0, max(1, len(losses) - 1))
        )
    for entry in axes:
        entry.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Title": title})

"""Pictures over the steps of a run, read from its ``steps.csv``: the loss, and the wait of each step."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from loaderlab import metrics
from loaderlab.compare.arms import ComparedArm
from loaderlab.report.chart_style import CYCLE, DASHES, cut, figure, legend_above
from loaderlab.report.part_colours import COLOURS
from loaderlab.report.step_files import COLLECTIVE

POINTS = 300  # of a line; a stall stays visible because a bin shows its longest step
STEP_GREY = "#B4BCC5"
NOT_PARTS = (f"device_{COLLECTIVE}", "device_trailing_ms")  # columns that other columns include
TIME_AXIS = "time in the loop, s"


@dataclass(frozen=True)
class Series:
    """Every step of one run, as arrays of equal length. ``seconds``: time in the loop, without evaluation."""

    seconds: np.ndarray
    samples: np.ndarray
    step_ms: np.ndarray
    wait_ms: np.ndarray
    loss: np.ndarray

    @property
    def has_loss(self) -> bool:
        """Whether any step has a finite loss."""
        return bool(np.isfinite(self.loss).any())


def read_steps(text: str) -> Series | None:
    """The steps in the ``steps.csv`` of a run; None if there are none. An emulated run has no losses.

    Of a job of several ranks, each step is that of its slowest rank, with the samples of all ranks and their mean loss.
    """
    rows = list(csv.DictReader(io.StringIO(text)))
    if not rows:
        return None
    host = np.array(
        [[float(row[name]) for name in row if name.startswith("host_") and name.endswith("_ms")] for row in rows]
    )
    samples = np.array([int(row["num_samples"]) for row in rows])
    step_ms, wait_ms = host.sum(axis=1), host[:, 0]
    losses = np.array([float(row.get("loss", "nan")) for row in rows])
    if "rank" in rows[0]:
        numbers, groups = np.unique([int(row["step"]) for row in rows], return_inverse=True)
        order = np.lexsort((np.array([_own_ms(row) for row in rows]), groups))  # by step, the slowest rank last
        slowest = order[np.searchsorted(groups[order], np.arange(len(numbers)), side="right") - 1]
        losses = np.bincount(groups, samples * losses) / np.maximum(1, np.bincount(groups, samples))
        samples = np.bincount(groups, samples).astype(np.int64)
        step_ms, wait_ms = step_ms[slowest], wait_ms[slowest]
    return Series(np.cumsum(step_ms) / 1e3, np.cumsum(samples), step_ms, wait_ms, losses)


def _own_ms(row: Mapping[str, str]) -> float:
    """A rank's own time in a step, without collectives, on the device's clock if there is one."""
    clock = "device_" if row[f"device_{COLLECTIVE}"] else "host_"
    parts = [float(row[name]) for name in row if name.startswith(clock) and name not in NOT_PARTS]
    return sum(parts) - float(row[f"device_{COLLECTIVE}" if clock == "device_" else COLLECTIVE])


def loss(arms: Sequence[ComparedArm], series: Mapping[ComparedArm, Series]) -> Figure:
    """The training loss of each arm, over time and over samples.

    Args:
        series: of the median run of each arm; an arm whose steps are lost has none.
    """
    drawn = figure(3.4)
    axes = drawn.subplots(1, 2, sharey=True)
    for number, arm in enumerate(arms):
        if arm not in series or not series[arm].has_loss:
            continue
        steps = series[arm]
        line: Any = {"color": CYCLE[number % len(CYCLE)], "linestyle": DASHES[number % len(DASHES)], "linewidth": 1.3}
        for axis, x in zip(axes, (steps.seconds, steps.samples), strict=True):
            places, values = binned(x, steps.loss, np.nanmean)
            axis.plot(places, values, label=cut(arm.label, 30), **line)
    axes[0].set(xlabel=TIME_AXIS, ylabel=metrics.metric(metrics.TRAIN_LOSS).short_label, xlim=(0, None))
    axes[1].set(xlabel="samples seen", xlim=(0, None))
    axes[1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes[1].xaxis.set_major_locator(MaxNLocator(5))
    for axis in axes:
        axis.grid(linewidth=0.6)
    legend_above(drawn, axes[0])
    return drawn


def waits(arms: Sequence[ComparedArm], series: Mapping[ComparedArm, Series]) -> Figure:
    """The length of each step and its wait for data, with a strip for each arm that has a series."""
    arms = [arm for arm in arms if arm in series]
    drawn = figure(0.95 * len(arms) + 0.9)
    axes = drawn.subplots(len(arms), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    tallest = max(float(np.percentile(series[arm].step_ms, 98)) for arm in arms)
    unit = metrics.metric(metrics.STEP_MS).unit
    for axis, arm in zip(axes, arms, strict=True):
        steps = series[arm]
        for values, colour, label in (
            (steps.step_ms, STEP_GREY, "step"),
            (steps.wait_ms, COLOURS["wait"], "wait for data"),
        ):
            ends, heights = binned(steps.seconds, values, np.nanmax)
            places, heights = np.concatenate([[0.0], ends]), np.concatenate([heights[:1], heights])
            axis.fill_between(places, heights, color=colour, linewidth=0, step="pre", label=label)
        axis.set_title(cut(arm.label, 80), loc="left", fontsize=8.5, pad=2)
        axis.set(ylim=(0, 1.15 * tallest or 1), ylabel=unit)
        axis.margins(x=0)
    axes[-1].set(xlabel=TIME_AXIS)
    handles, labels = axes[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper left", ncols=2, fontsize=8)
    return drawn


def binned(x: np.ndarray, values: np.ndarray, reduce: Callable[[np.ndarray], Any]) -> tuple[np.ndarray, np.ndarray]:
    """At most `POINTS` bins with equal numbers of steps: the end of each bin, and its values reduced to one."""
    chunks = np.array_split(np.arange(len(x)), min(POINTS, len(x)))
    kept = [chunk for chunk in chunks if np.isfinite(values[chunk]).any()]
    return np.array([x[chunk[-1]] for chunk in kept]), np.array([reduce(values[chunk]) for chunk in kept])

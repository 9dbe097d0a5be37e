"""The wait of each step as an SVG element for an HTML page, with its axes and a caption. It needs numpy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loaderlab import metrics
from loaderlab.meter.step import Step
from loaderlab.report.part_colours import COLOURS

COLUMNS = 600  # at most; a column shows the longest wait of its steps
MAX_EPOCH_MARKS = 60  # more lines would cover the waits
TALLEST_X = 10  # the chart ends at this multiple of the mean step, so that one slow batch does not flatten all others
ROUND = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)  # upper ends of the axis, times a power of ten
LEFT_OUT = "#8C959F"
STROKE = 'vector-effect="non-scaling-stroke"'  # in pixels, however much the picture is stretched
MS = metrics.metric(metrics.WAIT_MS)


@dataclass(frozen=True)
class Waits:
    """The waits of all steps, as arrays of equal length.

    Attributes:
        host_ms: wait of the host.
        starved_ms: part of the step in which the device was starved of data; None if the device has no clock of its own.
        measured: whether the step belongs to the measured window.
        epoch_starts: index of the first step of each epoch after the first.
    """

    host_ms: np.ndarray
    starved_ms: np.ndarray | None
    measured: np.ndarray
    epoch_starts: np.ndarray


@dataclass(frozen=True)
class Layer:
    """One colour of the chart; ``values`` has NaN for the steps that it does not show."""

    label: str
    colour: str
    opacity: float
    values: np.ndarray


def wait_chart(steps: Sequence[Step], window: Sequence[Step] | None, mean_step_ms: float | None) -> str:
    """HTML with the chart, its legend and its caption; empty if there are no steps.

    Args:
        steps: all steps, including warm-up.
        window: the measured steps; None if all are.
        mean_step_ms: of the window; drawn as a line, and the axis reaches at least up to it. None if not known.
    """
    if not steps:
        return ""
    waits = _waits(steps, window)
    layers = _layers(waits)
    top = _top(waits, mean_step_ms)
    starts = _column_starts(len(steps))
    shapes = "".join(_bars(layer, starts, top) for layer in layers)
    lines = _lines(waits, starts, top, mean_step_ms)
    legend = "".join(
        f'<span><i style="background:{layer.colour};opacity:{layer.opacity}"></i>{layer.label}</span>'
        for layer in layers
    )
    labels = [f"step {steps[0].step:,}"] + [f"step {steps[-1].step:,}"] * (len(steps) > 1)
    return (
        f'<div class="legend">{legend}</div>'
        f'<div class="plot"><span class="top">{_axis(top)} {MS.unit}</span><span class="mid">{_axis(top / 2)}</span>'
        f'<span class="low">0</span><svg viewBox="0 0 {len(starts)} 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{MS.label} of each step, {MS.unit}">{lines}{shapes}</svg>'
        f'<div class="axis">{"".join(f"<span>{label}</span>" for label in labels)}</div></div>'
        f'<p class="soft">{_caption(steps, waits, starts, top, mean_step_ms)}</p>'
    )


def _waits(steps: Sequence[Step], window: Sequence[Step] | None) -> Waits:
    count, starved = len(steps), None
    if any(step.device is not None for step in steps):
        starved = np.fromiter((step.starved_ms for step in steps), float, count)
    measured = np.ones(count, bool)
    if window is not None:
        numbers = np.fromiter((step.step for step in steps), np.int64, count)
        measured = np.isin(numbers, np.fromiter((step.step for step in window), np.int64, len(window)))
    return Waits(
        host_ms=np.fromiter((step.host[0] for step in steps), float, count) / 1e6,
        starved_ms=starved,
        measured=measured,
        epoch_starts=np.flatnonzero(np.diff(np.fromiter((step.epoch for step in steps), np.int64, count))) + 1,
    )


def _layers(waits: Waits) -> list[Layer]:
    """From the back to the front; a layer without steps is left out."""
    measured = waits.measured
    host = np.where(measured, waits.host_ms, np.nan)
    layers = [Layer("left out of the metrics", LEFT_OUT, 0.7, np.where(measured, np.nan, waits.host_ms))]
    if waits.starved_ms is None:
        layers.append(Layer(MS.label, COLOURS["wait"], 1, host))
    else:  # a waiting host need not starve the device
        layers.append(Layer(metrics.metric(metrics.HOST_WAIT_MS).label, COLOURS["wait"], 0.45, host))
        starved = np.where(measured, waits.starved_ms, np.nan)
        layers.append(Layer(metrics.metric(metrics.STARVED_PCT).label, COLOURS["wait"], 1, starved))
    return [layer for layer in layers if np.isfinite(layer.values).any()]


def _top(waits: Waits, mean_step_ms: float | None) -> float:
    """The upper end of the axis, ms."""
    chosen = waits.host_ms[waits.measured] if waits.measured.any() else waits.host_ms
    longest, mean = float(chosen.max()), mean_step_ms or float(chosen.mean())
    height = min(max(longest, mean), TALLEST_X * mean)
    if not math.isfinite(height) or height <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(height))
    return next(factor * power for factor in ROUND if factor * power >= height * (1 - 1e-9))


def _column_starts(count: int) -> np.ndarray:
    """The index of the first step of each column."""
    columns = min(COLUMNS, count)
    return np.arange(columns) * count // columns


def _bars(layer: Layer, starts: np.ndarray, top: float) -> str:
    """One path with a bar for each column, at least one pixel wide."""
    tallest = np.fmax.reduceat(layer.values, starts)
    heights = np.round(100 * np.minimum(tallest, top) / top, 1)
    bars = "".join(f"M{x} 100V{100 - height:g}h1V100z" for x, height in enumerate(heights.tolist()) if height > 0)
    style = f'fill="{layer.colour}" stroke="{layer.colour}" stroke-width="1" {STROKE} opacity="{layer.opacity}"'
    return f'<path d="{bars}" {style}/>' if bars else ""


def _lines(waits: Waits, starts: np.ndarray, top: float, mean_step_ms: float | None) -> str:
    """The grid, the starts of epochs and the mean step."""
    width = len(starts)
    line = f'fill="none" stroke="currentColor" {STROKE}'
    lines = f'<path d="M0 0H{width}M0 50H{width}M0 100H{width}" {line} stroke-opacity=".2"/>'
    if 0 < len(waits.epoch_starts) <= MAX_EPOCH_MARKS:
        columns = np.searchsorted(starts, waits.epoch_starts, side="right") - 1
        marks = "".join(f"M{column} 0V100" for column in dict.fromkeys(columns.tolist()))
        lines += f'<path d="{marks}" {line} stroke-opacity=".45" stroke-dasharray="4 3"/>'
    if mean_step_ms is not None and mean_step_ms <= top:
        height = f"{100 - 100 * mean_step_ms / top:.1f}"
        lines += f'<path d="M0 {height}H{width}" {line} stroke-opacity=".8" stroke-dasharray="1 3"/>'
    return lines


def _axis(value: float) -> str:
    return f"{value:,.10g}"


def _caption(steps: Sequence[Step], waits: Waits, starts: np.ndarray, top: float, mean_step_ms: float | None) -> str:
    sentences = []
    if len(steps) > len(starts):
        sentences.append(f"Each column shows the longest wait of up to {math.ceil(len(steps) / len(starts)):,} steps.")
    sentences += _left_out(waits.measured)
    if mean_step_ms is not None and mean_step_ms <= top:
        sentences.append("Dotted line: mean step.")
    if 0 < len(waits.epoch_starts) <= MAX_EPOCH_MARKS:
        sentences.append("Dashed lines: starts of epochs.")
    elif len(waits.epoch_starts):
        sentences.append(f"The starts of {len(waits.epoch_starts) + 1:,} epochs are not marked.")
    if cut := int((waits.host_ms > top).sum()):
        longest = int(waits.host_ms.argmax())
        wait = f"{waits.host_ms[longest]:,.0f} {MS.unit} at step {steps[longest].step:,}"
        sentences.append(
            f"One wait is longer than the axis: {wait}."
            if cut == 1
            else f"{cut:,} waits are longer than the axis, at most {wait}."
        )
    return " ".join(sentences)


def _left_out(measured: np.ndarray) -> list[str]:
    """A sentence about the steps that do not count; none if all count."""
    count = int((~measured).sum())
    if count == 0:
        return []
    if count == len(measured):
        return ["All steps are left out as warm-up." if count > 1 else "The only step is left out as warm-up."]
    if not measured[:count].any():
        return [
            f"The first {count:,} steps are left out as warm-up."
            if count > 1
            else "The first step is left out as warm-up."
        ]
    return [f"{count:,} steps at the start of the loop and of each epoch are left out as warm-up."]

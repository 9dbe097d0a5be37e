"""Computes step time, wait, idle and starved shares and the verdict from a trace's events.

A moment of a step is starved if the device runs nothing and the loop's thread is in a wait range. A share that is not
known is None, never 0: idle without GPU work in the trace, wait without a wait range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loaderlab.config import TraceConfig
from loaderlab.diagnosis.evidence import INCONCLUSIVE, Evidence
from loaderlab.diagnosis.verdict import Verdict, grade, judge
from loaderlab.meter.series import ratio_interval
from loaderlab.trace.collect import TraceEvents
from loaderlab.trace.devices import Device, working
from loaderlab.trace.intervals import FLOAT
from loaderlab.trace.notes import left_out, no_gpu, on_work
from loaderlab.trace.steps import NO_STEPS, one_process, step_spans
from loaderlab.trace.waits import wait_names, wait_unknown, waiting

LEAST_STEPS = 5  # steps that a trace needs for a verdict


@dataclass(frozen=True)
class Share:
    """One step or all steps: mean step time in ms, and shares of the time in the steps. None: not known."""

    num_steps: int
    step_ms: float | None
    wait_pct: float | None
    idle_pct: float | None
    starved_pct: float | None


@dataclass(frozen=True)
class Reading:
    """The results of a trace.

    Attributes:
        steps: the profiler's step number and the step's shares, in order of time.
        devices: name of each device and its shares over all steps.
        copy_pct: share of the time in which only copies run.
        starved_interval: 95 % confidence interval, percent.
        waits: names of the ranges that count as waiting, with the number of ranges.
        notes: what limits these results.
    """

    verdict: Verdict
    overall: Share
    steps: tuple[tuple[int, Share], ...] = ()
    pid: str | None = None
    devices: tuple[tuple[str, Share], ...] = ()
    copy_pct: float | None = None
    starved_interval: tuple[float, float] | None = None
    waits: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()


def analyse(trace: TraceEvents, config: TraceConfig) -> Reading:
    """The results for the collected events.

    Raises:
        UserError: nothing matches ``wait``, the chosen device did nothing, or several processes are merged and none was
            chosen.
    """
    steps = one_process(trace.steps, config)
    spans = step_spans(steps)
    if spans.lengths.sum() <= 0:
        unknown = Share(0, None, None, None, None)
        return Reading(Verdict(INCONCLUSIVE, None, None, NO_STEPS), unknown, notes=left_out(trace))
    threads = {step.thread for step in steps}
    waits = waiting(trace, threads, spans, config)
    devices = working(trace, spans, waits, config)
    wait = None if waits is None else spans.within(waits)
    idle, copying, starved = _mean(devices)
    overall = _share(spans.lengths, wait, idle, starved)
    each = tuple((device.name, _share(spans.lengths, wait, device.idle, device.starved)) for device in devices)
    copy_pct, interval = _percent(copying, spans.lengths), _interval(starved, spans.lengths)
    if reasons := ([] if devices else [no_gpu(trace, overall.wait_pct)]) + (
        [] if waits is not None else [wait_unknown(trace, threads)]
    ):
        verdict = Verdict(INCONCLUSIVE, None, None, "; ".join(reasons))
    else:
        verdict = judge(_evidence(overall, copy_pct, interval))
    return Reading(
        verdict=verdict,
        overall=overall,
        steps=tuple(
            (step.number, _share(spans.lengths, wait, idle, starved, slice(index, index + 1)))
            for index, step in enumerate(steps)
        ),
        pid=steps[0].thread[0],
        devices=each,
        copy_pct=copy_pct,
        starved_interval=interval,
        waits=() if waits is None else wait_names(trace, threads),
        notes=left_out(trace) + on_work(trace, devices) + (_several(each) if len(each) > 1 else ()),
    )


def _mean(devices: Sequence[Device]) -> tuple[FLOAT | None, FLOAT | None, FLOAT | None]:
    """Mean over the devices of the idle, copying and starved time of each step, (N,) µs."""
    if not devices:
        return None, None, None
    starved = [device.starved for device in devices if device.starved is not None]
    return (
        np.mean([device.idle for device in devices], axis=0),
        np.mean([device.copying for device in devices], axis=0),
        np.mean(starved, axis=0) if starved else None,
    )


def _share(
    lengths: FLOAT, wait: FLOAT | None, idle: FLOAT | None, starved: FLOAT | None, part: slice = slice(None)
) -> Share:
    return Share(
        num_steps=len(lengths[part]),
        step_ms=float(lengths[part].mean()) / 1e3,
        wait_pct=_percent(wait, lengths, part),
        idle_pct=_percent(idle, lengths, part),
        starved_pct=_percent(starved, lengths, part),
    )


def _percent(time: FLOAT | None, lengths: FLOAT, part: slice = slice(None)) -> float | None:
    total = float(lengths[part].sum())
    if time is None or total <= 0:
        return None
    return min(100.0, max(0.0, 100 * float(time[part].sum()) / total))  # a difference of sums may be 1e-9 below 0


def _interval(starved: FLOAT | None, lengths: FLOAT) -> tuple[float, float] | None:
    interval = None if starved is None else ratio_interval(starved.tolist(), lengths.tolist())
    return None if interval is None else (max(0.0, 100 * interval[0]), min(100.0, 100 * interval[1]))


def _evidence(overall: Share, copy_pct: float | None, interval: tuple[float, float] | None) -> Evidence:
    assert overall.wait_pct is not None
    assert overall.starved_pct is not None
    assert copy_pct is not None
    return Evidence(
        num_steps=overall.num_steps,
        wait_pct=overall.wait_pct,
        starved_pct=overall.starved_pct,
        starved_interval=interval,
        idle_pct=overall.idle_pct,
        copy_pct=copy_pct,
        least_steps=LEAST_STEPS,
    )


def _several(devices: Sequence[tuple[str, Share]]) -> tuple[str]:
    each = ", ".join(
        f"GPU {name} idle {share.idle_pct:.1f} %"
        + ("" if share.starved_pct is None else f" and starved {share.starved_pct:.1f} %")
        for name, share in devices
    )
    grades = {grade(share.starved_pct) for _, share in devices if share.starved_pct is not None}
    differ = "; they differ: select one with device=N" if len(grades) > 1 else ""
    return (f"idle and starved are the mean over {len(devices)} GPUs: {each}{differ}",)

"""How long each GPU is idle, only copies, or is starved in each step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loaderlab.config import AUTO, TraceConfig, refuse
from loaderlab.trace.collect import TraceEvents
from loaderlab.trace.intervals import FLOAT, Growing, Union, join
from loaderlab.trace.steps import StepSpans


@dataclass(frozen=True)
class Device:
    """Times of each step (N,), µs.

    Attributes:
        idle: no kernel, copy or memset runs; copying: only copies run.
        starved: idle while the loop waits for data; None if it is not known when the loop waits.
        outlasting: number of kernels that end after the next kernel of their stream, see `loaderlab.trace.streams`.
    """

    name: str
    idle: FLOAT
    copying: FLOAT
    starved: FLOAT | None
    outlasting: int


def working(trace: TraceEvents, steps: StepSpans, waits: Union | None, config: TraceConfig) -> list[Device]:
    """The devices that work in the steps, or the chosen one; empty if no device does.

    Raises:
        UserError: the chosen device does nothing, and others work.
    """
    names = sorted(
        trace.kernels.keys() | trace.compute.keys() | trace.copies.keys(), key=lambda name: (len(name), name)
    )
    devices = [_device(name, trace, steps, waits) for name in names]
    devices = [device for device in devices if np.any(device.idle < steps.lengths)]
    if config.device == AUTO or not devices:
        return devices
    chosen = [device for device in devices if device.name == str(config.device)]
    if not chosen:
        known = ", ".join(device.name for device in devices)
        allowed = f"this GPU does nothing in the steps; GPUs that work: {known}"
        raise refuse("device", config.device, allowed, f"device={devices[0].name}")
    return chosen


def _device(name: str, trace: TraceEvents, steps: StepSpans, waits: Union | None) -> Device:
    streams = [stream.busy(cut=single_process(trace)) for stream in trace.kernels.get(name, {}).values()]
    compute = join(trace.compute.get(name, Growing()).union(), *[busy for busy, _ in streams])
    busy = join(compute, trace.copies.get(name, Growing()).union())
    at_work = steps.within(busy)
    return Device(
        name=name,
        idle=steps.lengths - at_work,
        copying=at_work - steps.within(compute),
        starved=None if waits is None else steps.within(join(busy, waits)) - at_work,  # waiting outside the work
        outlasting=sum(count for _, count in streams),
    )


def single_process(trace: TraceEvents) -> bool:
    """Whether the steps belong to one process.

    In a file merged from several processes, a device's pid and tid may mean a different stream in each of them. Their
    kernels do run at the same time, so none is cut.
    """
    return len({step.thread[0] for step in trace.steps}) <= 1

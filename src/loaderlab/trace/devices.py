"""What the GPUs do in the steps: nothing, only copies, or nothing while the loop waits for data."""

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
        idle: no kernel, copy or memset runs; copying: copies run and nothing else.
        starved: idle, and the loop waits for data; None where nobody knows when it waits.
        outlasting: kernels of the device that end after the next kernel of their stream, see `loaderlab.trace.streams`.
    """

    name: str
    idle: FLOAT
    copying: FLOAT
    starved: FLOAT | None
    outlasting: int


def working(found: TraceEvents, steps: StepSpans, waits: Union | None, config: TraceConfig) -> list[Device]:
    """The devices that work in the steps, or the chosen one of them; empty where none does.

    Raises:
        UserError: the chosen device does nothing, and others do.
    """
    names = sorted(
        found.kernels.keys() | found.compute.keys() | found.copies.keys(), key=lambda name: (len(name), name)
    )
    devices = [_device(name, found, steps, waits) for name in names]
    devices = [device for device in devices if np.any(device.idle < steps.lengths)]
    if config.device == AUTO or not devices:
        return devices
    chosen = [device for device in devices if device.name == str(config.device)]
    if not chosen:
        known = ", ".join(device.name for device in devices)
        allowed = f"this GPU does nothing in the steps; those that work: {known}"
        raise refuse("device", config.device, allowed, f"device={devices[0].name}")
    return chosen


def _device(name: str, found: TraceEvents, steps: StepSpans, waits: Union | None) -> Device:
    streams = [stream.busy(cut=single_process(found)) for stream in found.kernels.get(name, {}).values()]
    compute = join(found.compute.get(name, Growing()).union(), *[busy for busy, _ in streams])
    busy = join(compute, found.copies.get(name, Growing()).union())
    at_work = steps.within(busy)
    return Device(
        name=name,
        idle=steps.lengths - at_work,
        copying=at_work - steps.within(compute),
        starved=None if waits is None else steps.within(join(busy, waits)) - at_work,  # what waiting adds to the work
        outlasting=sum(count for _, count in streams),
    )


def single_process(found: TraceEvents) -> bool:
    """Whether the steps are of one process. In a file merged of several, a device's pid and tid may stand for a stream of
    each of them: their kernels do run at the same time, so none is cut."""
    return len({step.thread[0] for step in found.steps}) <= 1

"""The collectives of a loop that is measured by a meter of its own: recorded by the hooks, and joined with its steps by time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace

from loaderlab.attach import hooks
from loaderlab.attach.device_clock import clock_of
from loaderlab.attach.events import GRADIENTS, UNKNOWN, Kind, Row
from loaderlab.attach.recorder import recorder
from loaderlab.device.base import Device
from loaderlab.meter.step import Step

OTHER = "another measurement began inside the loop"


class LoopCollectives:
    """Records the collectives of a loop, from its creation until `ended`."""

    def __init__(self, device: Device) -> None:
        hooks.install()
        recorder.collect(clock_of(device))
        self._recording = recorder.recording
        self.stepped = recorder.tidy  # call it once per step

    def ended(self) -> tuple[list[Row], str]:
        """The collectives, and why they cannot be separated from the rank's own work; empty if nothing is known to prevent it."""
        events = recorder.collected()
        if recorder.recording is not self._recording:
            return [], OTHER
        return [row for row in events.rows if row.kind == Kind.COLLECTIVE], events.program.unseparated


def with_collectives(
    steps: Sequence[Step], epochs_ns: Sequence[tuple[int, int]], rows: Sequence[Row]
) -> tuple[list[Step], int]:
    """The steps with their time in collectives, and the number of steps in which gradients were exchanged. Pure.

    Args:
        epochs_ns: begin and end of each epoch, on the clock of the rows.
        rows: of collectives.
    """
    begins = _begins(steps, epochs_ns)
    parts: dict[int, list[Row]] = {}
    for row in rows:
        index = bisect_right(begins, row.begin_ns) - 1
        if 0 <= index < len(steps) and row.begin_ns < begins[index] + steps[index].host_ns:
            parts.setdefault(index, []).append(row)
    exchanging = sum(any(row.flags & GRADIENTS for row in part) for part in parts.values())
    return [_with(step, parts.get(index, ())) for index, step in enumerate(steps)], exchanging


def _begins(steps: Sequence[Step], epochs_ns: Sequence[tuple[int, int]]) -> list[int]:
    """When each step began: where the one before ended, or with its epoch."""
    begins, epoch, at = [], -1, 0
    for step in steps:
        if step.epoch != epoch:
            epoch, at = step.epoch, epochs_ns[step.epoch][0]
        begins.append(at)
        at += step.host_ns
    return begins


def _with(step: Step, rows: Sequence[Row]) -> Step:
    if not rows:
        return step
    device = step.device
    if device is not None:
        ms = sum(max(0, row.idle_ns) for row in rows) / 1e6
        is_timed = all(row.idle_ns != UNKNOWN for row in rows)
        device = replace(device, collective=min(ms, device.length - device.gap) if is_timed else 0.0)
    return replace(step, collective_ns=sum(row.end_ns - row.begin_ns for row in rows), device=device)

"""The device's clock: events in a ring buffer, read late, so that nothing waits for them in the measured window."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch

from loaderlab.device.base import Device
from loaderlab.device.step_times import DeviceStep

RING = 64  # steps until an event is read: far more than a host runs ahead of its GPU


class EventRing:
    """Six events per step on the current stream of an asynchronous device, and the step's loss.

    Call `begin` before a sequence of steps, and in each step `ask` before the batch is requested and `mark` at the end of each
    of the five phases, then `end`.
    A step is returned as a `DeviceStep` about `RING` steps later by `end`, or by `drain`.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._events = [[device.event(timed=True) for _ in range(5)] for _ in range(RING)]
        self._asked = [device.event(timed=True) for _ in range(RING)]
        self._base = device.event(timed=True)
        pin = device.has_page_locked_memory
        with torch.inference_mode(False):  # a tensor that is created in this mode could not be written outside of it
            nans = torch.full((RING,), float("nan"), dtype=torch.float32, device="cpu", pin_memory=pin)
        self._losses = nans
        self._written = self._read = 0  # steps since begin
        self.drained = False  # the device had finished all its work when the host received the current batch

    def begin(self) -> None:
        """Starts a sequence of steps; the previous one must have been drained."""
        assert self._written == self._read, "drain the previous steps first"
        self._written = self._read = 0
        self._base.record(self._device.current_stream())

    def ask(self) -> None:
        """Records that the host asks for the next batch."""
        self._asked[self._written % RING].record(self._device.current_stream())

    def mark(self, phase: int) -> None:
        """Records the end of a phase, 0 to 4, on the device."""
        if phase == 0:  # a query does not wait; it returns whether all work is done that was queued before the request
            self.drained = self._asked[self._written % RING].query()
        # this device's current stream: another device may be the current one of the process
        self._events[self._written % RING][phase].record(self._device.current_stream())

    def loss(self, loss: torch.Tensor) -> None:
        """Copies the loss to the host without waiting; call it before the step's last mark."""
        self._losses[self._written % RING].copy_(loss.detach(), non_blocking=True)

    def end(self) -> DeviceStep | None:
        """Ends a step; returns the oldest one once the ring is full, before the next slot is reused."""
        self._written += 1
        return self._pop() if self._written - self._read == RING - 1 else None

    def drain(self) -> Iterator[DeviceStep]:
        """Waits for the device and yields all remaining steps; those that were read before it fails are not lost."""
        self._device.synchronize()
        for _ in range(self._written - self._read):
            yield self._pop()

    def _pop(self) -> DeviceStep:
        slot = self._events[self._read % RING]
        before = self._base if self._read == 0 else self._events[(self._read - 1) % RING][4]
        slot[4].synchronize()  # does not wait, unless the host is a whole ring ahead of its device
        stops = [before, *slot]
        gap, delivery, forward, backward, optimizer = (start.elapsed_time(stop) for start, stop in pairwise(stops))
        trailing = before.elapsed_time(self._asked[self._read % RING])
        loss = float(self._losses[self._read % RING])
        self._losses[self._read % RING] = float("nan")  # the slot's next step may have no loss
        self._read += 1
        return DeviceStep(gap, delivery, forward, backward, optimizer, loss, trailing)

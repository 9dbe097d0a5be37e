"""The device's clock: events in a ring buffer, read late, so that nothing waits for them in the measured window."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch

from loaderlab.device.base import Device, Event
from loaderlab.device.step_times import DeviceStep

RING = 64  # steps until an event is read: far more than a host runs ahead of its GPU


class EventRing:
    """Six events per step on the current stream of an asynchronous device, and the step's loss.

    Call `begin` before a sequence of steps, and in each step `ask` before the batch is requested and `mark` at the end of each
    of the five phases, then `end`.
    A step is returned as a `DeviceStep` about `RING` steps later by `end`, or by `drain`.

    With several ranks, call `collective_ended` in forward and `collective_begins` in backward: see `StepMeter`.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._events = [[device.event(timed=True) for _ in range(5)] for _ in range(RING)]
        self._asked = [device.event(timed=True) for _ in range(RING)]
        self._base = device.event(timed=True)
        self._ended, self._begun = _Collectives(device), _Collectives(device)  # in forward, and at the end of backward
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

    def collective_ended(self) -> None:
        """Records that the collectives at the start of forward have ended."""
        self._ended.record(self._written)

    def collective_begins(self) -> None:
        """Records that this rank's own work of backward has ended so far. Only the last call in a step counts."""
        self._begun.record(self._written)

    def end(self) -> DeviceStep | None:
        """Ends a step; returns the oldest one once the ring is full, before the next slot is reused."""
        self._written += 1
        return self._pop() if self._written - self._read == RING - 1 else None

    def reached(self) -> Iterator[DeviceStep]:
        """Yields the steps that the device has finished, without waiting."""
        while self._read < self._written and self._events[self._read % RING][4].query():
            yield self._pop()

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
        collective = self._collective_ms(slot)
        loss = float(self._losses[self._read % RING])
        self._losses[self._read % RING] = float("nan")  # the slot's next step may have no loss
        self._read += 1
        return DeviceStep(gap, delivery, forward, backward, optimizer, loss, trailing, collective)

    def _collective_ms(self, slot: list[Event]) -> float:
        """The time in collectives of the step that is read now: since the end of its transfer, and until the end of its backward."""
        ended, begun = self._ended.take(self._read), self._begun.take(self._read)
        in_forward = 0.0 if ended is None else slot[1].elapsed_time(ended)
        return in_forward + (0.0 if begun is None else begun.elapsed_time(slot[3]))


class _Collectives:
    """One event for each step of the ring that has a collective; created when it is first needed, since one rank needs none."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._events: dict[int, Event] = {}  # by slot
        self._steps: set[int] = set()  # that have one and are not read yet

    def record(self, step: int) -> None:
        """Records the event of a step on the current stream; a second call replaces it."""
        slot = step % RING
        if slot not in self._events:
            self._events[slot] = self._device.event(timed=True)
        self._events[slot].record(self._device.current_stream())
        self._steps.add(step)

    def take(self, step: int) -> Event | None:
        """The event of a step; None if it has no collective."""
        if step not in self._steps:
            return None
        self._steps.remove(step)
        return self._events[step % RING]

"""The device's clock: CUDA events from a reused ring, read late, so that nothing waits for them inside the window."""

from __future__ import annotations

from itertools import pairwise

import torch

from loaderlab.device.step_times import DeviceStep

RING = 64  # steps an event waits to be read: far more than a host runs ahead of its GPU


class EventRing:
    """Five events a step on the current stream of a CUDA device, and the step's loss beside them.

    `begin` a stretch of steps, `mark` the ends of the five phases in order, and each step comes back as a
    `DeviceStep` about `RING` steps later, or from `drain`.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events = [[torch.cuda.Event(enable_timing=True) for _ in range(5)] for _ in range(RING)]
        self._base = torch.cuda.Event(enable_timing=True)
        self._losses = torch.full((RING,), float("nan"), pin_memory=True)
        self._written = self._read = 0  # steps since begin
        self.drained = False  # whether the device had finished its work when the host had the present batch

    def begin(self) -> None:
        assert self._written == self._read, "drain the former stretch first"
        self._written = self._read = 0
        self._base.record(torch.cuda.current_stream(self._device))

    def mark(self, phase: int) -> None:
        if phase == 0:  # a query waits for nothing: it tells whether all that was queued has been done by now
            self.drained = self._last().query()
        # the stream of this device, whichever is the current one of the process
        self._events[self._written % RING][phase].record(torch.cuda.current_stream(self._device))

    def loss(self, loss: torch.Tensor) -> None:
        """Copies the loss to the host without waiting; call it before the step's last mark."""
        self._losses[self._written % RING].copy_(loss.detach(), non_blocking=True)

    def end(self) -> DeviceStep | None:
        """Ends a step; gives the oldest one once the ring is full, before its neighbour's slot is used again."""
        self._written += 1
        return self._pop() if self._written - self._read == RING - 1 else None

    def drain(self) -> list[DeviceStep]:
        """Waits for the device and gives the steps not yet given."""
        torch.cuda.synchronize(self._device)
        return [self._pop() for _ in range(self._written - self._read)]

    def _last(self) -> torch.cuda.Event:
        """The end of the newest whole step."""
        return self._base if self._written == 0 else self._events[(self._written - 1) % RING][4]

    def _pop(self) -> DeviceStep:
        slot = self._events[self._read % RING]
        before = self._base if self._read == 0 else self._events[(self._read - 1) % RING][4]
        slot[4].synchronize()  # passed long ago, unless the host runs a whole ring ahead of its device
        stops = [before, *slot]
        gap, delivery, forward, backward, optimizer = (start.elapsed_time(stop) for start, stop in pairwise(stops))
        loss = float(self._losses[self._read % RING])
        self._losses[self._read % RING] = float("nan")  # or the next step of this slot would have it, if it gives none
        self._read += 1
        return DeviceStep(gap, delivery, forward, backward, optimizer, loss)

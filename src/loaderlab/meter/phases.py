"""The five phases of each step, as they happened: raw records, no figure made of them yet."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch

from loaderlab.meter.clock import DeviceStep, EventRing

PHASES = ("wait", "transfer", "forward", "backward", "optimizer")


@dataclass
class Step:
    """One step. Host times in ns: the phases, and ``other`` until the next step began; they add up to the step."""

    epoch: int
    step: int
    num_samples: int
    first_of_epoch: bool
    host: tuple[int, int, int, int, int]
    other: int = 0
    loss: float = float("nan")
    device: DeviceStep | None = None

    @property
    def host_ns(self) -> int:
        return sum(self.host) + self.other


class StepMeter:
    """Records the steps of a loop that calls, in this order: `begin_epoch`, then for each step `mark` five times
    and `end_step`, then `end_epoch`.

    Args:
        device: a CUDA device is timed by events too; on a CPU the host's clock is the only one.
        clock: nanoseconds, monotonic; tests put a fake one here.
        cpu_clock: processor seconds used so far; read at the edges of an epoch only.
    """

    def __init__(
        self,
        device: torch.device,
        clock: Callable[[], int] = time.perf_counter_ns,
        cpu_clock: Callable[[], float] | None = None,
    ) -> None:
        self._clock, self._cpu_clock = clock, cpu_clock
        self._cpu_began, self._epoch_began = 0.0, 0
        self.cpu_s = self.epochs_s = 0.0  # processor and wall seconds inside the epochs, evaluation left out
        self._ring = EventRing(device) if device.type == "cuda" else None
        self._marks: list[int] = []
        self._epoch = 0
        self._pending: list[Step] = []  # steps whose device times are still to come
        self._began = 0
        self._first = True
        self.steps: list[Step] = []
        self.epoch_ends_ns: list[int] = []  # from the last step of an epoch to the loader saying that it was the last

    def begin_epoch(self, epoch: int) -> None:
        self._epoch, self._first = epoch, True
        self._marks = []
        if self._cpu_clock:
            self._cpu_began = self._cpu_clock()
        if self._ring:
            self._ring.begin()
        self._began = self._epoch_began = self._clock()

    def mark(self) -> None:
        """The present phase has ended."""
        if self._ring:
            self._ring.mark(len(self._marks))
        self._marks.append(self._clock())

    def keep_loss(self, loss: torch.Tensor) -> None:
        """The step's loss; call it before the mark that ends the optimizer's phase. Waits for nothing on CUDA."""
        if self._ring:
            self._ring.loss(loss)
        else:
            self._loss = float(loss.detach())

    def end_step(self, num_samples: int) -> None:
        """The step is over; what the loop does until the next one begins is its ``other``."""
        stops = [self._began, *self._marks]
        host = tuple(stop - start for start, stop in pairwise(stops))
        assert len(host) == 5, "a step has five phases"
        step = Step(self._epoch, len(self.steps), num_samples, self._first, host)
        self.steps.append(step)
        if self._ring:
            self._pending.append(step)
            if (timed := self._ring.end()) is not None:
                self._settle(timed)
        else:
            step.loss = self._loss
        self._first, self._began, self._marks = False, self._marks[-1], []

    def next_step(self) -> None:
        """The loop goes for the next batch: the time since the last mark was the finished step's ``other``."""
        now = self._clock()
        if not self._first:
            self.steps[-1].other = now - self._began
        self._began = now

    def end_epoch(self) -> None:
        """After the loader said that there are no more batches. Waits for the device."""
        if not self._first:
            self.epoch_ends_ns.append(self._clock() - self._began)
        if self._ring:
            for timed in self._ring.drain():
                self._settle(timed)
        self.epochs_s += (self._clock() - self._epoch_began) / 1e9
        if self._cpu_clock:
            self.cpu_s += self._cpu_clock() - self._cpu_began

    def _settle(self, timed: DeviceStep) -> None:
        step = self._pending.pop(0)
        step.device, step.loss = timed, timed.loss

    @property
    def num_settled(self) -> int:
        """Steps of which everything is known: on CUDA the newest are still on their way."""
        return len(self.steps) - len(self._pending)

    @property
    def last_loss(self) -> float:
        """The newest loss that has reached the host; nan before the first."""
        return self.steps[self.num_settled - 1].loss if self.num_settled else float("nan")


def own_cost_ns(device: torch.device, steps: int = 300) -> float:
    """What the meter itself adds to one step, in ns: a loop of nothing but its calls."""
    meter = StepMeter(device)
    loss = torch.zeros((), device=device)
    meter.begin_epoch(0)
    started = time.perf_counter_ns()
    for _ in range(steps):
        meter.next_step()
        for phase in range(5):
            if phase == 4:
                meter.keep_loss(loss)
            meter.mark()
        meter.end_step(1)
    cost = (time.perf_counter_ns() - started) / steps
    meter.end_epoch()
    return cost

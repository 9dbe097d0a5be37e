"""The five phases of each step, as they happened: raw records, no figure made of them yet."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.profiler import record_function

from loaderlab.meter.clock import DeviceStep, EventRing

PHASES = ("wait", "transfer", "forward", "backward", "optimizer")


@dataclass(slots=True)
class Step:
    """One step. Host times in ns: the phases, and ``other`` until the next step began; they add up to the step.

    Attributes:
        position: in its epoch, counted from 0.
        drained: whether the device had finished all its work when the host had the batch; None on a CPU.
        disturbed: a profiler ran beside it: not a step to measure.
    """

    epoch: int
    step: int
    position: int
    num_samples: int
    host: tuple[int, int, int, int, int]
    other: int = 0
    loss: float = float("nan")
    device: DeviceStep | None = None
    drained: bool | None = None
    disturbed: bool = False

    @property
    def host_ns(self) -> int:
        return sum(self.host) + self.other

    @property
    def starved_ms(self) -> float:
        """In which the device was dry for want of data: min(gap, host wait) + delivery; on one clock wait + transfer."""
        if self.device is None:
            return (self.host[0] + self.host[1]) / 1e6
        return min(self.device.gap, self.host[0] / 1e6) + self.device.delivery

    @property
    def length_ms(self) -> float:
        """From the end of the step before to its own, on the device's clock where there is one."""
        return self.host_ns / 1e6 if self.device is None else self.device.length


class StepMeter:
    """Records the steps of a loop that calls, in this order: `begin_epoch`, then for each step `next_step`, `mark`
    five times and `end_step`, then `next_step` and `end_epoch`.

    Args:
        device: a CUDA device is timed by events too; on a CPU the host's clock is the only one.
        clock: nanoseconds, monotonic; tests put a fake one here.
        counters: what has been used so far (processor seconds, bytes read), read at the edges of an epoch only.
        sync: wait for the device at every mark, and trust the host's clock alone: the plain way, which removes the
            overlap of host and device. To check the events against.
    """

    def __init__(
        self,
        device: torch.device,
        clock: Callable[[], int] = time.perf_counter_ns,
        counters: Callable[[], Mapping[str, float]] | None = None,
        sync: bool = False,
    ) -> None:
        self._clock, self._counters = clock, counters
        self._at_begin: Mapping[str, float] = {}
        self._epoch_began = 0
        self.used: dict[str, float] = {}  # of the counters, inside the epochs
        self.windows_ns: list[tuple[int, int]] = []  # of each whole epoch, evaluation left out, the device waited for
        self._ring = EventRing(device) if device.type == "cuda" and not sync else None
        self._sync = device if device.type == "cuda" and sync else None
        self._marks: list[int] = []
        self._epoch = self._position = 0
        self._pending: list[Step] = []  # steps whose device times are still to come
        self._began = 0
        self._range: record_function | None = None
        self._loss = float("nan")
        self.annotate = False  # name the phases in a profiler's trace; the steps then count as disturbed
        self._settled_from = 0
        self.steps: list[Step] = []
        self.epoch_ends_ns: list[int] = []  # from the last step of an epoch to the loader saying that it was the last

    def begin_epoch(self, epoch: int) -> None:
        self._epoch, self._position = epoch, 0
        self._marks = []
        if self._counters:
            self._at_begin = self._counters()
        if self._ring:
            self._ring.begin()
        self._began = self._epoch_began = self._clock()

    def next_step(self) -> None:
        """The loop goes for the next batch: the time since the last mark was the finished step's ``other``."""
        now = self._clock()
        if self._position:
            self.steps[-1].other = now - self._began
        self._began = now
        if self.annotate or self._range is not None:
            self._name_phase("wait" if self.annotate else None)

    def mark(self) -> None:
        """The present phase has ended."""
        if self._ring:
            self._ring.mark(len(self._marks))
        elif self._sync:
            torch.cuda.synchronize(self._sync)
        self._marks.append(self._clock())
        if self._range is not None:
            self._name_phase((*PHASES, "other")[len(self._marks)])

    def move_mark(self) -> None:
        """The phase that ended last ends only now."""
        assert self._marks, "no phase has ended yet"
        if self._ring:
            self._ring.mark(len(self._marks) - 1)
        self._marks[-1] = self._clock()

    def drop_step(self) -> None:
        """The step that was begun is none."""
        self._marks = []
        self._began = self._clock()

    def keep_loss(self, loss: torch.Tensor) -> None:
        """The step's loss; call it before the mark that ends the optimizer's phase. Waits for nothing on CUDA."""
        if self._ring:
            self._ring.loss(loss)
        else:
            self._loss = loss.item()  # on a CPU it is there; with `sync` this waits once more

    def end_step(self, num_samples: int) -> None:
        """The step is over; what the loop does until the next one begins is its ``other``."""
        begun = self._began
        waited, delivered, forwarded, backwarded, stepped = self._marks  # five phases: no fewer, no more
        host = (waited - begun, delivered - waited, forwarded - delivered, backwarded - forwarded, stepped - backwarded)
        step = Step(self._epoch, len(self.steps), self._position, num_samples, host)
        step.disturbed = self.annotate or len(self.steps) < self._settled_from
        self.steps.append(step)
        if self._ring:
            self._pending.append(step)
            step.drained = self._ring.drained
            if (timed := self._ring.end()) is not None:
                self._settle(timed)
        else:
            step.loss = self._loss
        self._position += 1
        self._began, self._marks = stepped, []

    def end_epoch(self) -> None:
        """After the loader said that there are no more batches. Waits for the device."""
        if self._position:
            self.epoch_ends_ns.append(self._clock() - self._began)
        self._name_phase(None)
        if self._ring:
            for timed in self._ring.drain():
                self._settle(timed)
        self.windows_ns.append((self._epoch_began, self._clock()))
        if self._counters:
            for name, value in self._counters().items():
                self.used[name] = self.used.get(name, 0.0) + value - self._at_begin[name]

    def disturb(self, steps: int) -> None:
        """So many steps from now on are not to be measured."""
        self._settled_from = len(self.steps) + steps

    def _name_phase(self, name: str | None) -> None:
        if self._range is not None:
            self._range.__exit__(None, None, None)
        self._range = None
        if name is not None:
            self._range = record_function(f"loaderlab/{name}")
            self._range.__enter__()

    def _settle(self, timed: DeviceStep) -> None:
        step = self._pending.pop(0)
        step.device, step.loss = timed, timed.loss

    @property
    def epochs_s(self) -> float:
        """Wall time of the whole epochs, evaluation left out."""
        return sum(end - begin for begin, end in self.windows_ns) / 1e9

    @property
    def num_settled(self) -> int:
        """Steps of which everything is known: on CUDA the newest are still on their way."""
        return len(self.steps) - len(self._pending)

    @property
    def last_loss(self) -> float:
        """The newest loss that has reached the host; nan before the first."""
        return self.steps[self.num_settled - 1].loss if self.num_settled else float("nan")


def own_cost_ns(device: torch.device, steps: int = 300, sync: bool = False) -> float:
    """What the meter itself adds to one step, in ns: a loop of nothing but its calls."""
    meter = StepMeter(device, sync=sync)
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

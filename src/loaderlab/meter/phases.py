"""The step meter: it records when each of the five phases of each step ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch.profiler import record_function

from loaderlab.device.base import Device
from loaderlab.device.clock import RING, EventRing
from loaderlab.device.step_times import DeviceStep
from loaderlab.meter.step import PHASES, Step
from loaderlab.meter.step_rows import StepRows

ALL_STEPS = 10**12
TOGETHER = 8  # steps that are written to a file of rows at once


class StepMeter:
    """Records the steps of a loop.

    The loop calls, in this order: `begin_epoch`, then for each step `next_step`, `mark` four times and `end_step`,
    then `next_step` and `end_epoch`. Inside a step the meter only reads clocks and appends to lists; the property
    `steps` builds the records from them.

    Args:
        device: an asynchronous device is also timed by events; others only by the host's clock.
        clock: monotonic nanoseconds, by default `time.perf_counter_ns`; tests pass a fake clock.
        counters: totals so far (CPU seconds, bytes read), read only at the start and end of an epoch.
        sync: wait for the device at every mark and use the host's clock alone. This removes the overlap of host and
            device; it exists to validate the event timing.
        rows: a file that gets every step as soon as its times are known.

    With several ranks, the step also calls `collective_ended` and `collective_begins`.
    """

    def __init__(
        self,
        device: Device,
        clock: Callable[[], int] | None = None,
        counters: Callable[[], Mapping[str, float]] | None = None,
        sync: bool = False,
        rows: StepRows | None = None,
    ) -> None:
        self._clock, self._counters = clock or time.perf_counter_ns, counters
        self._rows, self._num_rows = rows, 0  # steps of the current epoch in the file
        self._at_begin: Mapping[str, float] = {}
        self.used: dict[str, float] = {}  # increase of each counter inside the epochs
        self.epochs_ns: list[tuple[int, int]] = []  # start and end of each epoch, after the device finished its work
        self.epoch_ends_ns: list[int] = []  # from requesting one more batch to the loader's StopIteration
        self._aside_ns = self._epoch_aside_ns = 0  # inside the complete epochs and the current one: see `aside`
        asynchronous = device.capabilities.asynchronous
        self._ring = EventRing(device) if asynchronous and not sync else None
        self._sync = device if asynchronous and sync else None
        self._annotate, self._range = False, None  # type: bool, record_function | None
        self._plain = not asynchronous  # a mark only reads the clock
        self._epoch = self._epoch_began = 0
        # the current epoch: for each step its start and the ends of its five phases, its samples and its loss
        self._times: list[int] = []
        self._sizes: list[int] = []
        self._losses: list[float] = []
        self._drained: list[bool] = []
        self._collectives: dict[int, int] = {}  # step of the epoch: time in collectives; empty with one rank
        self._in_forward, self._begun = 0, None  # type: int, int | None # of the current step
        self._steps: list[Step] = []
        self._num_built = 0  # steps of the current epoch that are already in _steps
        self._settled: list[DeviceStep] = []  # device times, in order, of all steps for which they have arrived
        self._disturbed: list[tuple[int, int]] = []  # ranges of steps

    # ---- in the loop ---------------------------------------------------------------------------------------

    def begin_epoch(self, epoch: int) -> None:
        self._epoch, self._num_built, self._epoch_aside_ns = epoch, 0, 0
        self._times, self._sizes, self._losses, self._drained = [], [], [], []
        self._collectives = {}
        self._num_rows = 0
        if self._counters:
            self._at_begin = self._counters()
        if self._ring:
            self._ring.begin()
        self._epoch_began = self._clock()

    def next_step(self) -> None:
        """Call before requesting the next batch: the time since the last mark was the finished step's ``other``."""
        self._times.append(self._clock())
        if self._rows is not None and len(self._sizes) >= self._num_rows + TOGETHER:
            self._write_rows()
        if not self._plain:
            if self._ring:
                self._ring.ask()
            self._name_phase("wait" if self._annotate else None)

    def mark(self) -> None:
        """Marks the end of the current phase."""
        if self._plain:
            self._times.append(self._clock())
            return
        phase = (len(self._times) - 1) % 6
        if self._ring:
            self._ring.mark(phase)
        elif self._sync:
            self._sync.synchronize()
        self._times.append(self._clock())
        if self._range is not None:
            self._name_phase((*PHASES[1:], "other")[phase])

    def move_mark(self) -> None:
        """Moves the end of the phase that ended last to the present moment."""
        if self._ring:
            self._ring.mark((len(self._times) - 2) % 6)
        elif self._sync:
            self._sync.synchronize()
        self._times[-1] = self._clock()

    def collective_ended(self) -> None:
        """Call in forward, when the collectives at its start have ended: a vote, the broadcast of buffers."""
        if self._ring:
            self._ring.collective_ended()
        elif self._sync:
            self._sync.synchronize()
        self._in_forward = self._clock() - self._times[-1]

    def collective_begins(self) -> None:
        """Call in backward, when this rank's own work has ended: what follows in backward is the exchange of gradients. Only the last
        call in a step counts."""
        if self._ring:
            self._ring.collective_begins()
        elif self._sync:
            self._sync.synchronize()
        self._begun = self._clock()

    def end_step(self, num_samples: int, loss: torch.Tensor | None = None) -> None:
        """Marks the end of the last phase and of the step; the time until the next step is its ``other``.

        Storing the loss does not wait for the device, except with ``sync``.
        """
        if self._begun is not None or self._in_forward:
            backward = 0 if self._begun is None else self._times[-1] - self._begun
            self._collectives[len(self._sizes)] = self._in_forward + backward
            self._in_forward, self._begun = 0, None
        if self._ring:
            if loss is not None:
                self._ring.loss(loss)
        else:
            self._losses.append(float("nan") if loss is None else loss.item())
        self.mark()
        self._sizes.append(num_samples)
        if self._ring:
            self._drained.append(self._ring.drained)
            if (timed := self._ring.end()) is not None:
                self._settle(timed)
            if self._rows is not None:  # early, so that few are lost with a killed process
                for reached in self._ring.reached():
                    self._settle(reached)

    def drop_step(self) -> None:
        """Discards the step that was begun."""
        del self._times[6 * len(self._sizes) + 1 :]
        self._in_forward, self._begun = 0, None

    @contextmanager
    def aside(self) -> Iterator[None]:
        """The time of the block, between two steps, does not count as time of the loop: see `epochs_s`."""
        began = self._clock()
        try:
            yield
        finally:
            self._epoch_aside_ns += self._clock() - began

    def settle(self) -> None:
        """Waits for the device, so that the last steps of an interrupted loop have their device times too."""
        if self._rows is not None:
            self._write_rows()
        if self._ring:
            for timed in self._ring.drain():
                self._settle(timed)

    def _settle(self, timed: DeviceStep) -> None:
        """Keeps the times of the next step on the device's clock."""
        if self._rows is not None:
            self._rows.device(len(self._settled), timed)
        self._settled.append(timed)

    def _write_rows(self) -> None:
        """Writes the newest steps of the current epoch to the file of rows: several together, since a single call in a real loop takes
        five times as long as the next one."""
        for index in range(self._num_rows, len(self._sizes)):
            self._write_row(index)
        self._num_rows = len(self._sizes)

    def _write_row(self, index: int) -> None:
        assert self._rows is not None
        times = self._times[6 * index : 6 * index + 7]
        number = self.num_steps - len(self._sizes) + index
        self._rows.host(
            number,
            self._epoch,
            index,
            self._sizes[index],
            times,
            self._collectives.get(index, 0),
            loss=self._losses[index] if index < len(self._losses) else float("nan"),
            drained=self._drained[index] if self._drained else None,
            disturbed=self._is_disturbed(number),
        )

    def _is_disturbed(self, number: int) -> bool:
        return any(begin <= number < end for begin, end in self._disturbed)

    def end_epoch(self, exhausted: bool = True) -> None:
        """Ends the epoch and waits for the device.

        Args:
            exhausted: the loader had no more batches; False for a loop that stopped earlier, maybe long ago.
        """
        count, now = len(self._sizes), self._clock()
        if not exhausted and not self._ring:
            now = self._times[6 * count - 1] if count else self._epoch_began
        if count:
            requested = self._times[6 * count] if len(self._times) > 6 * count else now
            self.epoch_ends_ns.append(now - requested if exhausted else 0)
        self._name_phase(None)
        self.settle()
        self.epochs_ns.append((self._epoch_began, self._clock() if exhausted or self._ring else now))
        self._aside_ns += self._epoch_aside_ns
        if self._counters:
            for name, value in self._counters().items():
                self.used[name] = self.used.get(name, 0.0) + value - self._at_begin[name]
        self._build()

    # ---- with a profiler -----------------------------------------------------------------------------------

    def annotate(self, on: bool) -> None:
        """Starts or stops naming the phases in a profiler's trace, from the next step on; such steps are not measured."""
        if on != self._annotate:
            self.disturb(ALL_STEPS) if on else self.undisturb()
        self._annotate = on
        self._plain = not (on or self._range or self._ring or self._sync)

    def disturb(self, steps: int) -> None:
        """Leaves the next ``steps`` steps out of the measurement."""
        self._disturbed.append((self.num_steps, self.num_steps + steps))

    def undisturb(self) -> None:
        """Ends the last `disturb` with the newest step: the next one is measured."""
        self._disturbed[-1] = (self._disturbed[-1][0], self.num_steps)

    def _name_phase(self, name: str | None) -> None:
        if self._range is not None:
            self._range.__exit__(None, None, None)
        self._range = None
        if name is not None:
            self._range = record_function(f"loaderlab/{name}")
            self._range.__enter__()
        elif not self._annotate:
            self._plain = not (self._ring or self._sync)

    # ---- records -------------------------------------------------------------------------------------------

    @property
    def position(self) -> int:
        """Number of steps in the current epoch so far."""
        return len(self._sizes)

    @property
    def last_wait_ns(self) -> tuple[int, int]:
        """When the wait of the newest step of this epoch began and ended, on the meter's clock."""
        begin = 6 * (len(self._sizes) - 1)
        return self._times[begin], self._times[begin + 1]

    @property
    def num_steps(self) -> int:
        return len(self._steps) - self._num_built + len(self._sizes)

    @property
    def steps(self) -> list[Step]:
        """Every step so far; on CUDA the newest do not have their device times yet."""
        self._build()
        return self._steps

    def _build(self) -> None:
        """Adds the steps that ended since the last call, and rebuilds the newest one, which had no ``other`` yet."""
        before = len(self._steps) - self._num_built  # steps of earlier epochs
        first = max(0, self._num_built - 1)
        del self._steps[before + first :]
        self._steps += [self._record(before + index, index) for index in range(first, len(self._sizes))]
        self._num_built = len(self._sizes)
        if self._ring:
            count = min(len(self._settled), len(self._steps))
            for number in range(self._num_applied, count):
                timed = self._settled[number]
                self._steps[number] = replace(self._steps[number], device=timed, loss=timed.loss)
            self._num_applied = count

    def _record(self, number: int, index: int) -> Step:
        """The record of a step of the current epoch, with what is known so far."""
        times = self._times[6 * index : 6 * index + 7]
        timed = self._settled[number] if number < len(self._settled) else None
        loss = self._losses[index] if index < len(self._losses) else float("nan")
        return Step(
            epoch=self._epoch,
            step=number,
            position=index,
            num_samples=self._sizes[index],
            host=(
                times[1] - times[0],
                times[2] - times[1],
                times[3] - times[2],
                times[4] - times[3],
                times[5] - times[4],
            ),
            other=times[6] - times[5] if len(times) > 6 else 0,
            loss=loss if timed is None else timed.loss,
            device=timed,
            drained=self._drained[index] if self._drained else None,
            disturbed=self._is_disturbed(number),
            collective_ns=self._collectives.get(index, 0),
        )

    _num_applied = 0  # number of records that have their device times

    @property
    def epochs_s(self) -> float:
        """Wall time of the complete epochs, without evaluation and without the meter's own readings of counters and memory."""
        return (sum(end - begin for begin, end in self.epochs_ns) - self._aside_ns) / 1e9

    @property
    def num_settled(self) -> int:
        """Number of complete steps: on CUDA the device times of the newest have not arrived yet."""
        return len(self._settled) if self._ring else self.num_steps

    @property
    def settled(self) -> list[Step]:
        """The complete steps: see `num_settled`."""
        return self.steps[: self.num_settled]

    @property
    def last_loss(self) -> float:
        """The newest loss that has reached the host; nan before the first."""
        if self._ring:
            return self._settled[-1].loss if self._settled else float("nan")
        return self._losses[-1] if self._losses else float("nan")


def own_cost_ns(device: Device, steps: int = 100, sync: bool = False) -> float:
    """The time that the meter itself adds to one step, ns: the median over steps of the sum of its calls.

    Each call is made after other work, as in a real loop; in an empty loop with warm caches the calls take a quarter of
    the time. The cost of two clock readings in the same place is subtracted.
    """
    costs = []
    with torch.inference_mode(False), torch.enable_grad():  # a watched inference loop may have switched them
        meter, loss = StepMeter(device, sync=sync), torch.zeros((), device=device.torch_device)
        calls: list[Callable[[], None]] = [
            meter.next_step,
            *[meter.mark] * 4,
            lambda: meter.end_step(1, loss),
            lambda: None,
        ]
        weights = torch.zeros(256, 256, device="cpu", requires_grad=True)
        inputs = torch.zeros(32, 256, device="cpu")
        meter.begin_epoch(0)
        for _ in range(RING + steps):  # the event ring returns one timed step per step only once it is full
            spent = []
            for call in calls:
                (inputs @ weights).relu().sum().backward()  # leaves the caches as cold as a real step does
                began = time.perf_counter_ns()
                call()
                spent.append(time.perf_counter_ns() - began)
            costs.append(sum(spent[:-1]) - (len(spent) - 1) * spent[-1])
        meter.end_epoch()
    return max(0.0, float(sorted(costs[RING:])[steps // 2]))

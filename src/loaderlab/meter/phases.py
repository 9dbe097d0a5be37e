"""The meter of a loop: it records when each of the five phases of each step ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch.profiler import record_function

from loaderlab.device.clock import RING, EventRing
from loaderlab.device.step_times import DeviceStep
from loaderlab.meter.step import PHASES, Step


class StepMeter:
    """Records the steps of a loop that calls, in this order: `begin_epoch`, then for each step `next_step`, `mark`
    four times and `end_step`, then `next_step` and `end_epoch`.

    Inside a step it only reads clocks and appends to lists: `steps` makes records of them when it is asked for.

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
        self.used: dict[str, float] = {}  # of the counters, inside the epochs
        self.epochs_ns: list[tuple[int, int]] = []  # of each whole epoch, evaluation left out, the device waited for
        self.epoch_ends_ns: list[int] = []  # from asking for one more batch to the loader saying that there is none
        self._ring = EventRing(device) if device.type == "cuda" and not sync else None
        self._sync = device if device.type == "cuda" and sync else None
        self._annotate, self._range = False, None  # type: bool, record_function | None
        self._plain = device.type != "cuda"  # nothing to do at a mark but to read the clock
        self._epoch = self._epoch_began = 0
        # of the present epoch: for each step when it began and when its five phases ended, its samples and its loss
        self._times: list[int] = []
        self._sizes: list[int] = []
        self._losses: list[float] = []
        self._drained: list[bool] = []
        self._steps: list[Step] = []
        self._made = 0  # steps of the present epoch that are among them
        self._settled: list[DeviceStep] = []  # device times, in order, of all steps that have some
        self._disturbed: list[tuple[int, int]] = []  # ranges of steps

    # ---- in the loop ---------------------------------------------------------------------------------------

    def begin_epoch(self, epoch: int) -> None:
        self._epoch, self._made = epoch, 0
        self._times, self._sizes, self._losses, self._drained = [], [], [], []
        if self._counters:
            self._at_begin = self._counters()
        if self._ring:
            self._ring.begin()
        self._epoch_began = self._clock()

    def next_step(self) -> None:
        """The loop goes for the next batch: the time since the last mark was the finished step's ``other``."""
        self._times.append(self._clock())
        if not self._plain:
            self._name_phase("wait" if self._annotate else None)

    def mark(self) -> None:
        """The present phase has ended."""
        if self._plain:
            self._times.append(self._clock())
            return
        phase = (len(self._times) - 1) % 6
        if self._ring:
            self._ring.mark(phase)
        elif self._sync:
            torch.cuda.synchronize(self._sync)
        self._times.append(self._clock())
        if self._range is not None:
            self._name_phase((*PHASES[1:], "other")[phase])

    def move_mark(self) -> None:
        """The phase that ended last ends only now."""
        if self._ring:
            self._ring.mark((len(self._times) - 2) % 6)
        elif self._sync:
            torch.cuda.synchronize(self._sync)
        self._times[-1] = self._clock()

    def end_step(self, num_samples: int, loss: torch.Tensor | None = None) -> None:
        """The last phase has ended and the step with it; what the loop does until the next one is its ``other``. The
        loss is kept without waiting for it; on a CPU it is there, and with ``sync`` the device is waited for anyway."""
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
                self._settled.append(timed)

    def drop_step(self) -> None:
        """The step that was begun is none."""
        del self._times[6 * len(self._sizes) + 1 :]

    def settle(self) -> None:
        """Waits for the device: the last steps of a loop that broke off have their device times too."""
        if self._ring:
            self._settled += self._ring.drain()

    def end_epoch(self, exhausted: bool = True) -> None:
        """After the loader said that there are no more batches, or with ``exhausted`` false a loop that broke off before
        that, maybe long ago. Waits for the device."""
        count, now = len(self._sizes), self._clock()
        if not exhausted and not self._ring:
            now = self._times[6 * count - 1] if count else self._epoch_began
        if count:
            asked = self._times[6 * count] if len(self._times) > 6 * count else now
            self.epoch_ends_ns.append(now - asked if exhausted else 0)
        self._name_phase(None)
        self.settle()
        self.epochs_ns.append((self._epoch_began, self._clock() if exhausted or self._ring else now))
        if self._counters:
            for name, value in self._counters().items():
                self.used[name] = self.used.get(name, 0.0) + value - self._at_begin[name]
        self._make()

    # ---- a profiler beside it ------------------------------------------------------------------------------

    def annotate(self, on: bool) -> None:
        """Names the phases from the next step on in a profiler's trace, or no longer; these steps are not measured."""
        if on != self._annotate:
            self.disturb(10**12) if on else self._undisturb()
        self._annotate = on
        self._plain = not (on or self._range or self._ring or self._sync)

    def disturb(self, steps: int) -> None:
        """So many steps from now on are not to be measured."""
        self._disturbed.append((self.num_steps, self.num_steps + steps))

    def _undisturb(self) -> None:
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

    # ---- what it recorded ----------------------------------------------------------------------------------

    @property
    def position(self) -> int:
        """Steps of the present epoch."""
        return len(self._sizes)

    @property
    def num_steps(self) -> int:
        return len(self._steps) - self._made + len(self._sizes)

    @property
    def steps(self) -> list[Step]:
        """Every step so far; on CUDA the device times of the newest are still to come."""
        self._make()
        return self._steps

    def _make(self) -> None:
        """Records of the steps that ended since the last time; the newest of then had no ``other`` yet."""
        before = len(self._steps) - self._made  # steps of former epochs
        first = max(0, self._made - 1)
        del self._steps[before + first :]
        self._steps += [self._record(before + index, index) for index in range(first, len(self._sizes))]
        self._made = len(self._sizes)
        if self._ring:
            count = min(len(self._settled), len(self._steps))
            for number in range(self._applied, count):
                timed = self._settled[number]
                self._steps[number] = replace(self._steps[number], device=timed, loss=timed.loss)
            self._applied = count

    def _record(self, number: int, index: int) -> Step:
        """The record of a step of the present epoch, as far as it is known."""
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
            disturbed=any(begin <= number < end for begin, end in self._disturbed),
        )

    _applied = 0  # device times that the records have

    @property
    def epochs_s(self) -> float:
        """Wall time of the whole epochs, evaluation left out."""
        return sum(end - begin for begin, end in self.epochs_ns) / 1e9

    @property
    def num_settled(self) -> int:
        """Steps of which everything is known: on CUDA the newest are still on their way."""
        return len(self._settled) if self._ring else self.num_steps

    @property
    def settled(self) -> list[Step]:
        """The steps of which everything is known."""
        return self.steps[: self.num_settled]

    @property
    def last_loss(self) -> float:
        """The newest loss that has reached the host; nan before the first."""
        if self._ring:
            return self._settled[-1].loss if self._settled else float("nan")
        return self._losses[-1] if self._losses else float("nan")


def own_cost_ns(device: torch.device, steps: int = 100, sync: bool = False) -> float:
    """What the meter itself adds to one step, in ns: the median over steps of what its calls take, each of them made
    after other work, as in a loop: in an empty one, all caches being warm, they cost a fourth of that. What an empty pair of clock readings costs in the same place is taken off."""
    costs = []
    with torch.inference_mode(False), torch.enable_grad():  # whoever watches an inference has switched them
        meter, loss = StepMeter(device, sync=sync), torch.zeros((), device=device)
        calls: list[Callable[[], None]] = [
            meter.next_step,
            *[meter.mark] * 4,
            lambda: meter.end_step(1, loss),
            lambda: None,
        ]
        weights, inputs = torch.zeros(256, 256, requires_grad=True), torch.zeros(32, 256)
        meter.begin_epoch(0)
        for _ in range(RING + steps):  # a ring of events gives one back each step only once it is full
            spent = []
            for call in calls:
                (inputs @ weights).relu().sum().backward()  # as cold as a step leaves it
                began = time.perf_counter_ns()
                call()
                spent.append(time.perf_counter_ns() - began)
            costs.append(sum(spent[:-1]) - (len(spent) - 1) * spent[-1])
        meter.end_epoch()
    return max(0.0, float(sorted(costs[RING:])[steps // 2]))

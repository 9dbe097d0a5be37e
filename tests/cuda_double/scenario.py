"""A training loop on the double: the real `train()`, meter, copies and model code, with planted times.

The truth comes from two logs that the meter does not see: the double's log of busy intervals, and the loader's log of when
the host waited. See `Played.truth`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from loaderlab.config import NativeLoader, PrecisionConfig, SgdOptimizer
from loaderlab.device.timeline import VirtualClock
from loaderlab.loaders.capabilities import LoaderCapabilities
from loaderlab.loaders.contract import Batch, Loader
from loaderlab.loaders.copying import DeviceCopy
from loaderlab.meter.phases import StepMeter
from loaderlab.meter.step import Step
from loaderlab.training import optimizers
from loaderlab.training.loop import Observers, Parts, train
from loaderlab.training.precision import Precision
from loaderlab.training.step import ModelStep, Progress
from tests.cuda_double.double import DEVICE, GPU, Double
from tests.cuda_double.intervals import Spans, length, overlap, without

MS = 1_000_000
BATCH, FEATURES = 10, 100
STEP_WORK = ("forward", "backward", "optimizer", "trailing")
BATCH_BYTES = BATCH * (4 * FEATURES + 8)


@dataclass
class Loop:
    """The planted times of a loop, ms.

    Attributes:
        prepare: the time that one worker needs for batch i; without workers the host makes it.
        phases: of the device, for forward, backward and optimizer.
        host: of the host, to launch each of them.
        copy_ms: to copy a batch from pinned memory; from pageable memory it takes twice as long.
        copying: pin_memory, non_blocking, side_stream.
        kernels: the number of pieces in which each of the phases is launched.
        trailing_ms: work of the device that is queued after each step, such as the averaging of weights.
        prepared_ms: work of the device for each batch, on another stream, which begins when the host has the batch.
    """

    prepare: Callable[[int], float]
    workers: int = 0
    prefetch: int = 2
    phases: tuple[float, float, float] = (3.0, 5.0, 1.0)
    host: tuple[float, float, float] = (0.2, 0.2, 0.1)
    kernels: int = 1
    copy_ms: float = 0.0
    copying: tuple[bool, bool, bool] = (True, True, True)
    trailing_ms: float = 0.0
    prepared_ms: float = 0.0
    steps: int = 40
    epochs: int = 1
    accumulate: int = 1
    stop_after: int | None = None
    evaluate: bool = False

    @property
    def step_ms(self) -> float:
        return sum(self.phases)


class PlannedLoader(Loader):
    """Delivers batches at the planted times, and logs when the host waited for them and when the device had them."""

    def __init__(self, loop: Loop, double: Double) -> None:
        self._loop, self._double = loop, double
        pin_memory, non_blocking, side_stream = loop.copying
        config = NativeLoader(pin_memory=pin_memory, non_blocking=non_blocking, side_stream=side_stream)
        self._copy = DeviceCopy(config, GPU)
        self._other = double.new_stream() if loop.prepared_ms else None
        self.capabilities = LoaderCapabilities(lookahead=loop.workers * loop.prefetch, parallel=max(1, loop.workers))
        self.waits: Spans = []
        self.deliveries: Spans = []
        self.closed = 0

    @property
    def num_steps(self) -> int:
        return self._loop.steps

    def epoch(self, epoch: int) -> Iterator[Batch]:
        clock, loop = self._double.clock, self._loop
        taken_ns: list[int] = []
        free_ns = [clock.now()] * max(1, loop.workers)
        began_ns = clock.now()
        for index in range(loop.steps):
            asked_ns = clock.now()
            made_ns = round(loop.prepare(index) * MS)
            if loop.workers:
                ahead = loop.workers * loop.prefetch
                start_ns = taken_ns[index - ahead] if index >= ahead else began_ns
                worker = index % loop.workers
                free_ns[worker] = max(free_ns[worker], start_ns) + made_ns
                clock.sleep_until(free_ns[worker])
            else:
                clock.spend(made_ns)
            inputs = torch.full((BATCH, FEATURES), float(index % 7))
            batch = Batch(inputs, torch.full((BATCH,), index % 3), torch.arange(BATCH))
            taken_ns.append(clock.now())
            self.waits.append((asked_ns, clock.now()))
            yield batch.pin_memory() if self._copy.pins else batch

    def transfer(self, batch: Batch) -> Batch:
        received_ns, num_logged = self._double.clock.now(), len(self._double.timeline.log)
        if self._other is not None:  # as of a decoder on another stream, for which the step's stream waits
            with self._double.stream(self._other):
                self._double.work(round(self._loop.prepared_ms * MS), "decode")
            self._double.current_stream.wait_stream(self._other)
        moved = self._copy(batch)
        ends_ns = [busy.stop_ns for busy in self._double.timeline.log[num_logged:]]
        self.deliveries.append((received_ns, max([received_ns, *ends_ns])))
        return moved

    def close(self) -> None:
        self.closed += 1


def launch(double: Double, loop: Loop, phase: int, name: str) -> None:
    """Queues the work of a phase."""
    device_ns, host_ns = (round(times[phase] * MS / loop.kernels) for times in (loop.phases, loop.host))
    for _ in range(loop.kernels):
        double.work(device_ns, name, host_ns)


class PlannedModel(nn.Module):
    """A small real model whose passes also queue the planted work."""

    def __init__(self, loop: Loop, double: Double) -> None:
        super().__init__()
        self._linear, self._loop, self._double = nn.Linear(FEATURES, 3), loop, double

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        launch(self._double, self._loop, 0, "forward" if self.training else "evaluation")
        logits: torch.Tensor = self._linear(inputs)
        if logits.requires_grad:
            logits.register_hook(lambda _: launch(self._double, self._loop, 1, "backward"))
        return logits


@dataclass
class Played:
    """A loop that was played, with the meter's record and the logs. The first step of an epoch is in no window."""

    loop: Loop
    double: Double
    meter: StepMeter
    parts: Parts
    loader: PlannedLoader
    progress: Progress

    def truth(self, steps: list[Step]) -> float:
        """Percent of the time of these steps in which no work of a step ran while the host waited for data or the batch was
        on its way to the device."""
        window = self.window(steps)
        idle = without(window, self._step_work)
        return 100 * length(overlap(idle, [*self.loader.waits, *self.loader.deliveries])) / length(window)

    def delivery(self, steps: list[Step]) -> float:
        """Percent of the time of these steps in which no work of a step ran while the batch was on its way to the device."""
        window = self.window(steps)
        return 100 * length(overlap(without(window, self._step_work), self.loader.deliveries)) / length(window)

    def window(self, steps: list[Step]) -> Spans:
        """The time of these steps: each from the end of the step before it."""
        ends = self._ends
        return [(ends[step.step - 1], ends[step.step]) for step in steps]

    @property
    def _step_work(self) -> Spans:
        return [(busy.start_ns, busy.stop_ns) for busy in self.double.timeline.log if busy.work in STEP_WORK]

    @property
    def _ends(self) -> list[int]:
        """The end of the last work of each step."""
        last = "optimizer" if self.loop.accumulate == 1 else "backward"
        ends = [busy.stop_ns for busy in self.double.timeline.log if busy.work == last]
        ends = ends[self.loop.kernels - 1 :: self.loop.kernels]
        if self.loop.accumulate > 1:  # the update belongs to the step before it
            updates = [busy.stop_ns for busy in self.double.timeline.log if busy.work == "optimizer"]
            for stop_ns in updates:
                index = max(index for index, end_ns in enumerate(ends) if end_ns <= stop_ns)
                ends[index] = stop_ns
        return ends


def parts_of(loop: Loop, double: Double) -> tuple[Parts, PlannedLoader]:
    """Real parts of a training run with planted times."""
    torch.manual_seed(0)
    model = PlannedModel(loop, double).to(DEVICE)
    optimizer, schedule = optimizers.build(SgdOptimizer(schedule="constant"), model, None)

    def update(*_: Any) -> None:
        launch(double, loop, 2, "optimizer")

    optimizer.register_step_pre_hook(update)
    loader = PlannedLoader(loop, double)
    val_loader = PlannedLoader(replace(loop, steps=7), double) if loop.evaluate else None
    precision = Precision(PrecisionConfig(name="fp32"), GPU)
    return Parts(ModelStep(model, optimizer, schedule, precision), loader, val_loader, GPU), loader


def play(loop: Loop, double: Double, on_step: Callable[[Progress], None] = lambda _: None) -> Played:
    """Trains on the double, which must be installed."""
    assert isinstance(double.clock, VirtualClock)
    parts, loader = parts_of(loop, double)
    double.synchronize()
    meter, progress = StepMeter(GPU), Progress()

    def after_step(progress: Progress, _: StepMeter) -> None:
        double.work(round(loop.trailing_ms * MS), "trailing")
        double.timeline.end_step(double.current_stream.queue)
        on_step(progress)

    epochs, observers = None if loop.stop_after else loop.epochs, Observers(after_step, lambda *_: None)
    train(parts, meter, progress, observers, accumulate=loop.accumulate, epochs=epochs, steps=loop.stop_after)
    return Played(loop, double, meter, parts, loader, progress)


def double_for(loop: Loop, **settings: Any) -> Double:
    """A double on which copies take as long as planted."""
    speed = BATCH_BYTES / (loop.copy_ms * MS) if loop.copy_ms else 1e9
    return Double(VirtualClock(), copy_gb_per_s=speed, **settings)

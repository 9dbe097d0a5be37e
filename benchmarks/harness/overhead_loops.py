"""The training loop with and without the meter, and the loop by hand that the ceiling is compared with."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from loaderlab.config import AdamWOptimizer, PrecisionConfig
from loaderlab.device.base import Device
from loaderlab.loaders.contract import Batch
from loaderlab.meter.phases import StepMeter
from loaderlab.probes.ceiling import WARMUP_STEPS, CycledBatches
from loaderlab.training import optimizers
from loaderlab.training.loop import Observers, Parts, train
from loaderlab.training.precision import Precision
from loaderlab.training.step import ModelStep, Progress


class Bare(StepMeter):
    """A meter that does nothing."""

    def begin_epoch(self, epoch: int) -> None: ...
    def next_step(self) -> None: ...
    def mark(self) -> None: ...
    def end_step(self, num_samples: int, loss: torch.Tensor | None = None) -> None: ...
    def end_epoch(self, exhausted: bool = True) -> None:
        self._device_of.synchronize()

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self._device_of = device


class Turns(Bare):
    """A meter that is on or off at random at each step and keeps the length of each step.

    Steps that are compared are a few milliseconds apart. With strict turns the memory allocator, which has its own turns,
    would be measured too.
    """

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        real, names = StepMeter(device), ("mark", "end_step")
        real.begin_epoch(0)
        self._calls = [{name: getattr(meter, name) for name in names} for meter in (Bare(device), real)]
        self._real, self._on, self._last = real, 0, 0
        self._coin = random.Random(0)
        self.lengths: list[tuple[int, int]] = []  # on or off, ns

    def next_step(self) -> None:
        now = time.perf_counter_ns()
        if self._last:
            self.lengths.append((self._on, now - self._last))
        self._on = self._coin.randrange(2)
        self.__dict__.update(self._calls[self._on])  # the loop then calls the real methods or those that do nothing
        self._last = time.perf_counter_ns()
        if self._on:
            self._real.next_step()


class Fixed(CycledBatches):
    """Resident batches for a given number of steps."""

    def __init__(self, batches: list[Batch], steps: int) -> None:
        counter = itertools.count(1)
        super().__init__(batches, lambda: next(counter) > steps)


def make(
    device: Device, model_name: str, batch_size: int, precision: str = "fp32", *, channels_last: bool = False
) -> tuple[Parts, list[Batch]]:
    """The parts of the training loop, and random batches on the device."""
    torch.manual_seed(0)
    if model_name == "mlp":
        model: nn.Module = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)).to(device.torch_device)
        shape: tuple[int, ...] = (256,)
    else:
        import timm

        model = timm.create_model(model_name).to(device.torch_device)
        shape = (3, 224, 224)
    optimizer, schedule = optimizers.build(AdamWOptimizer(schedule="constant"), model, None)
    memory_format = torch.contiguous_format
    if channels_last and len(shape) == 3:
        memory_format = torch.channels_last
        model = model.to(memory_format=memory_format)
    batches = [
        Batch(
            _inputs((batch_size, *shape), device, memory_format),
            torch.randint(0, 10, (batch_size,), device=device.torch_device),
            None,
        )
        for _ in range(5)  # an odd number, so that every batch is used with the meter on and off in turn
    ]
    loader = Fixed(batches, 0)
    step = ModelStep(model, optimizer, schedule, Precision(PrecisionConfig(name=precision), device))
    return Parts(step, loader, None, device), batches


def _inputs(shape: tuple[int, ...], device: Device, memory_format: torch.memory_format) -> torch.Tensor:
    return torch.rand(shape, device=device.torch_device).contiguous(memory_format=memory_format)


def block_s(parts: Parts, batches: list[Batch], meter: StepMeter, steps: int) -> float:
    """Seconds per step of one block."""
    parts.loader = Fixed(batches, steps)
    began = time.perf_counter()
    train(parts, meter, Progress(), Observers(lambda *_: None, lambda *_: None), epochs=1, steps=None, accumulate=1)
    return (time.perf_counter() - began) / steps


def blocks(
    parts: Parts, batches: list[Batch], device: Device, pairs: int, steps: int
) -> tuple[list[float], list[float]]:
    """The ratio metered / bare of each pair of blocks, and the milliseconds of the bare steps."""
    ratios, bare_ms = [], []
    for pair in range(pairs):
        metered: dict[bool, float] = {}
        for on in (pair % 2 == 0, pair % 2 == 1):
            metered[on] = block_s(parts, batches, StepMeter(device) if on else Bare(device), steps)
        ratios.append(metered[True] / metered[False])
        bare_ms.append(1e3 * metered[False])
    return ratios, bare_ms


def by_hand(parts: Parts, batches: Iterable[Batch], seconds: float) -> float:
    """Samples per second of the simplest loop, without its warm-up; ``batches`` are repeated."""
    step = parts.step
    assert isinstance(step, ModelStep)
    model, optimizer, count, began = step.model, step.optimizer, 0, time.perf_counter()
    deadline, endless = began + seconds, itertools.chain.from_iterable(itertools.repeat(batches))
    for index, batch in enumerate(endless):
        if index == WARMUP_STEPS:
            parts.device.synchronize()
            began, count, deadline = time.perf_counter(), 0, time.perf_counter() + seconds
        with step.precision.autocast():
            loss = F.cross_entropy(model(batch.inputs), batch.targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step.schedule.step()
        count += 1
        if time.perf_counter() >= deadline:
            break
    parts.device.synchronize()
    return count * len(batch) / (time.perf_counter() - began)


def median_and_interval(values: list[float]) -> tuple[float, float, float]:
    """The median and the ends of its 95 % confidence interval, by bootstrap."""
    samples = np.random.default_rng(0).choice(values, (500, len(values)))
    low, high = np.percentile(np.median(samples, axis=1), [2.5, 97.5])
    return float(np.median(values)), float(low), float(high)

"""The ceiling probe: the step fed from batches on the device, alone or while the loader runs too (contention)."""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import TracebackType

import torch

from loaderlab import metrics
from loaderlab.device.base import Device
from loaderlab.loaders.contract import Batch, Loader
from loaderlab.loaders.nesting import mapped
from loaderlab.meter.phases import StepMeter
from loaderlab.meter.rates import Rate
from loaderlab.meter.step import Step
from loaderlab.meter.summary import measured, rate_interval, summarize
from loaderlab.training.loop import Observers, Parts, train
from loaderlab.training.step import Progress

WARMUP_STEPS = 5
ENOUGH_STEPS = 15  # measured steps that a probe needs; until then it may exceed its time ...
PATIENCE = 3  # ... up to this factor
RESIDENT = 4  # batches


class Unmeasurable(Exception):
    """Why a probe has no result."""


class CycledBatches(Loader):
    """A few batches on the device, served again and again until `time_up`, or for a number of steps."""

    def __init__(self, batches: list[Batch], time_up: Callable[[], bool], num_steps: int | None = None) -> None:
        self._batches, self._time_up, self._num_steps = batches, time_up, num_steps

    @property
    def num_steps(self) -> int | None:
        return self._num_steps  # None: the deadline ends the epoch

    def epoch(self, epoch: int) -> Iterator[Batch]:
        return itertools.takewhile(lambda _: not self._time_up(), itertools.cycle(self._batches))

    def transfer(self, batch: Batch) -> Batch:
        return batch

    def close(self) -> None:
        self._batches = []


class Deadline:
    """Returns whether the time is up: ``seconds`` after the first call, or up to `PATIENCE` times as long while fewer than
    `ENOUGH_STEPS` steps are measured."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began: float | None = None
        self.steps = 0

    def __call__(self) -> bool:
        if self._began is None:
            self._began = time.perf_counter()
        passed = time.perf_counter() - self._began
        enough = self.steps >= WARMUP_STEPS + ENOUGH_STEPS
        return passed >= (self._seconds if enough else PATIENCE * self._seconds)


def resident_batches(loader: Loader, epoch: int, seconds: float = 1.0) -> list[Batch]:
    """The first full batches of an epoch, on the device: four, or as many as arrive in ``seconds``."""
    resident: list[Batch] = []
    until = time.perf_counter() + seconds
    for batch in itertools.islice(loader.epoch(epoch), RESIDENT):
        if not resident or batch.num_items == resident[0].num_items:
            resident.append(_copy(loader.transfer(batch)))
        if time.perf_counter() > until:
            break
    return resident


def _copy(batch: Batch) -> Batch:
    """A copy, which outlives the loader; without ids."""
    inputs, targets = mapped(
        (batch.inputs, batch.targets), lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf
    )
    return Batch(inputs, targets, None, counted=batch.counted)


def ceiling(
    parts: Parts,
    batches: list[Batch],
    seconds: float,
    accumulate: int,
    *,
    concurrent_loader: Loader | None = None,
    sync: bool = False,
    num_steps: int | None = None,
) -> Rate | None:
    """The loop's rate with its batches already on the device, as with a perfect loader.

    Args:
        concurrent_loader: a loader that runs at the same time. One of its batches is discarded per step, as many as
            training would take; the rate then shows how much step and loader slow each other down.
        sync: as in the run.
        num_steps: instead of ``seconds``: with several ranks, all of them must run the same number of steps.

    Returns:
        None with too few steps to measure.
    """
    deadline = Deadline(seconds if num_steps is None else math.inf)
    drain = None if concurrent_loader is None else _Drain(concurrent_loader, parts.device)
    meter = StepMeter(parts.device, sync=sync)

    def on_step(progress: Progress, _: StepMeter) -> None:
        deadline.steps = progress.step
        if drain is not None:
            drain.take_one()

    with contextlib.nullcontext() if drain is None else drain:
        fed = replace(parts, loader=CycledBatches(batches, deadline, num_steps), val_loader=None)
        epochs = 1 if num_steps is None else None
        train(
            fed,
            meter,
            Progress(),
            Observers(on_step, lambda *_: None),
            epochs=epochs,
            steps=num_steps,
            accumulate=accumulate,
        )
    return rate_of(measured(meter.steps, WARMUP_STEPS))


def rate_of(window: list[Step], period: int = 1) -> Rate | None:
    """The rate over the measured steps, None with fewer than `WARMUP_STEPS`; ``period`` as in `rate_interval`."""
    if len(window) < WARMUP_STEPS:
        return None
    return Rate(summarize(window)[metrics.RATE], rate_interval(window, period))


class _Drain:
    """Takes batches from a loader in a thread, one per call of `take_one`, and discards them.

    A loader that is slower than the step falls behind and then runs without pauses, as it does in training. As a context
    manager it ends with the block, and raises the loader's error unless the block has raised one.
    """

    def __init__(self, loader: Loader, device: Device) -> None:
        self._loader, self._device = loader, device
        self._requested = threading.Semaphore(0)
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="contention probe", daemon=True)
        self._thread.start()

    def take_one(self) -> None:
        self._requested.release()

    def _work(self) -> None:
        try:
            self._device.bind_thread()
            for epoch in itertools.count():
                has_batches = False
                for _ in self._loader.epoch(epoch):
                    has_batches = True
                    self._requested.acquire()
                    if self._ended.is_set():
                        return
                if not has_batches:
                    return  # an iterable dataset that is exhausted
        except BaseException as error:
            self._error = error

    def __enter__(self) -> _Drain:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        self._ended.set()
        self._requested.release()
        self._thread.join()  # waits for the current batch at most
        if error is None and self._error is not None:
            raise self._error

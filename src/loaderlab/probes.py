"""What the run might have been: the step without a loader, the loader without a step, both side by side.

The probes come after training and go through the very loop that trained, so that what they measure differs from the run
in one thing each. Whatever they change is put back: see `untouched`.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from loaderlab.config import MeasureConfig
from loaderlab.data.spec import ImageFiles, Split
from loaderlab.loaders.contract import Batch, EpochPlan, Loader
from loaderlab.meter import filecache, resources
from loaderlab.meter.phases import Step, StepMeter
from loaderlab.meter.summary import measured, rate_interval, summarize
from loaderlab.training import Observers, Parts, Trained, train

WARMUP_STEPS = 5
ENOUGH_STEPS = 15  # measured, for which a probe may go on past its time ...
PATIENCE = 3  # ... to this many times of it
RESIDENT = 4  # batches


class Unmeasurable(Exception):
    """Why a probe has no figure to give."""


@dataclass(frozen=True)
class Rate:
    """Samples a second, with the 95 % interval within the probe where it had steps enough for one."""

    samples_per_s: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Alone:
    """The loader with nobody training: samples a second, transfer included, and the cores that it kept busy."""

    samples_per_s: float
    cores: float


@dataclass
class Probed:
    """What the probes found; None: switched off, or not to be had, with the reason among the notes."""

    ceiling: Rate | None = None
    alone: Alone | None = None
    contended: Rate | None = None
    cold: Rate | None = None
    warm: Rate | None = None
    stages: Mapping[str, float] | None = None
    notes: list[str] = field(default_factory=list)


@contextmanager
def untouched(parts: Parts) -> Iterator[None]:
    """Puts back what probes change: weights, buffers, gradients, optimizer, schedule, scaler, mode, random states.

    The copy lies in host memory: a GPU that the run filled has no room for it.
    """
    model = parts.model
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in _tensors(parts)}
    gradients = [None if p.grad is None else p.grad.detach().cpu().clone() for p in model.parameters()]
    rest = _on_host({key: value for key, value in parts.state().items() if key != "model"})
    training, devices = model.training, [parts.device] if parts.device.type == "cuda" else []
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        with torch.no_grad():
            for name, tensor in _tensors(parts):
                tensor.copy_(tensors[name])
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = None if gradient is None else gradient.to(parameter.device)
        parts.load_state(rest | {"model": model.state_dict()})
        model.train(training)


def _tensors(parts: Parts) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers, those that no checkpoint holds among them."""
    return itertools.chain(parts.model.named_parameters(), parts.model.named_buffers())


def _on_host(state: Any) -> Any:
    """A copy of nested dicts and lists with their tensors in host memory."""
    if isinstance(state, torch.Tensor):
        return state.detach().cpu().clone()
    if isinstance(state, Mapping):
        return {key: _on_host(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(_on_host(value) for value in state)
    return state


class Resident(Loader):
    """A few batches on the device, served again and again until `time_up`."""

    def __init__(self, batches: list[Batch], time_up: Callable[[], bool]) -> None:
        self._batches, self._time_up = batches, time_up
        self.settings = {}

    @property
    def num_steps(self) -> None:
        return None  # it ends by the clock

    def epoch(self, epoch: int) -> Iterator[Batch]:
        return itertools.takewhile(lambda _: not self._time_up(), itertools.cycle(self._batches))

    def transfer(self, batch: Batch) -> Batch:
        return batch

    def close(self) -> None:
        self._batches = []


class Deadline:
    """Time up after ``seconds``, or later, up to `PATIENCE` times that, while there are too few steps to tell."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._began = seconds, time.perf_counter()
        self.steps = 0

    def __call__(self) -> bool:
        passed = time.perf_counter() - self._began
        enough = self.steps >= WARMUP_STEPS + ENOUGH_STEPS
        return passed >= (self._seconds if enough else PATIENCE * self._seconds)


def probe(
    parts: Parts, settings: MeasureConfig, rebuild: Callable[[], Loader], split: Split, plan: EpochPlan, epoch: int, accumulate: int,
    rate: float, told: Callable[[int, str], None],
) -> Probed:  # fmt: skip
    """Every probe that is switched on, each bounded in time; leaves the parts as they were, but for their loader, which
    is closed.

    Args:
        rebuild: a new loader like that of the run.
        epoch: whose samples to use.
        rate: of the run, samples/s.
        told: is called with (number, name) before each probe.
    """
    found = Probed()
    if not (settings.ceiling or settings.loader_alone):
        return found
    with untouched(parts):
        batches = resident_batches(parts.loader, epoch)
        parts.loader.close()  # its workers must not go on beside the ceiling
        if settings.ceiling:
            told(0, "ceiling")
            found.ceiling = ceiling(parts, batches, settings.probe_s, accumulate)
            if found.ceiling is None:
                found.notes.append("ceiling: too few steps in the time. Type for example: measure.probe_s=10")
        if settings.loader_alone or settings.contention:
            loader = rebuild()
            try:
                if settings.loader_alone:
                    told(1, "loader alone")
                    found.stages = loader.stages()
                    found.alone = loader_alone(loader, epoch, settings.probe_s, resources.cpu_seconds, parts.device)
                if settings.contention and loader.lookahead:  # else nothing ever worked beside the step
                    told(2, "ceiling with the loader beside it")
                    found.contended = ceiling(parts, batches, settings.probe_s, accumulate, beside=loader)
            finally:
                loader.close()
        if settings.cold:
            told(3, "cold file cache")
            try:
                if not isinstance(split.source, ImageFiles):
                    raise Unmeasurable("the samples are no files that this program knows of")
                steps = min(
                    plan.num_steps, WARMUP_STEPS + max(ENOUGH_STEPS, int(settings.probe_s * rate / plan.batch_size))
                )
                found.cold, found.warm = cold_and_warm(parts, rebuild, split.source, plan, epoch, steps, accumulate)
            except Unmeasurable as reason:
                found.notes.append(f"measure.cold=true: {reason}")
    return found


def resident_batches(loader: Loader, epoch: int) -> list[Batch]:
    """The first full batches of an epoch, on the device."""
    found: list[Batch] = []
    for batch in itertools.islice(loader.epoch(epoch), RESIDENT):
        if not found or len(batch) == len(found[0]):
            here = loader.transfer(batch)
            found.append(Batch(here.inputs.clone(), here.targets.clone(), None))  # it outlives the loader
    return found


def ceiling(parts: Parts, batches: list[Batch], seconds: float, accumulate: int, *, beside: Loader | None = None) -> Rate | None:  # fmt: skip
    """The loop's rate with its batches at hand: what a perfect loader would give. With ``beside``, that loader works
    meanwhile and its batches are thrown away, one a step as in training: what is left of the ceiling then is what
    step and loader leave each other. None where there were too few steps to tell."""
    deadline = Deadline(seconds)
    drain = _Drain(beside, parts.device) if beside is not None else None
    meter = StepMeter(parts.device)

    def on_step(trained: Trained, _: StepMeter) -> None:
        deadline.steps = trained.step
        if drain is not None:
            drain.take_one()

    try:
        resident = replace(parts, loader=Resident(batches, deadline), val_loader=None)
        train(
            resident, meter, Trained(), Observers(on_step, lambda *_: None), epochs=1, steps=None, accumulate=accumulate
        )
    finally:
        if drain is not None:
            drain.close()
    return _rate(measured(meter.steps, WARMUP_STEPS))


def _rate(window: list[Step], period: int = 1) -> Rate | None:
    if len(window) < WARMUP_STEPS:
        return None
    return Rate(summarize(window)["rate/samples_per_s"], rate_interval(window, period))


class _Drain:
    """Takes batches from a loader in a thread of its own, one for each `take_one`, and throws them away.

    A loader that is slower than the step falls behind and then works without a pause, as it does in training.
    """

    def __init__(self, loader: Loader, device: torch.device) -> None:
        self._loader, self._device = loader, device
        self._wanted = threading.Semaphore(0)
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="contention probe", daemon=True)
        self._thread.start()

    def take_one(self) -> None:
        self._wanted.release()

    def _work(self) -> None:
        try:
            if self._device.type == "cuda":
                torch.cuda.set_device(self._device)
            for epoch in itertools.count():
                for _ in self._loader.epoch(epoch):
                    self._wanted.acquire()
                    if self._ended.is_set():
                        return
        except BaseException as error:
            self._error = error

    def close(self) -> None:
        self._ended.set()
        self._wanted.release()
        self._thread.join()  # at most until the batch in hand is there
        if self._error is not None:
            raise self._error


def loader_alone(
    loader: Loader, first_epoch: int, seconds: float, cpu_seconds: Callable[[], float], device: torch.device
) -> Alone | None:
    """The loader's rate with nobody training. None where an epoch has too few batches to tell.

    Within each epoch from its first batch to the last one that ends a whole round of its parallel makers: of N batches
    in the making together N come together.
    """
    began = time.perf_counter()
    samples = 0
    spent = cores = 0.0
    for epoch in itertools.count(first_epoch):
        times: list[float] = []
        sizes: list[int] = []
        used = 0.0
        for batch in loader.epoch(epoch):
            loader.transfer(batch)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if not times:
                used = cpu_seconds()
            times.append(time.perf_counter())
            sizes.append(len(batch))
            if time.perf_counter() - began >= seconds and (len(times) > 2 * loader.parallel or samples):
                break
        last = (len(times) - 1) // loader.parallel * loader.parallel
        if last > 0:
            samples += sum(sizes[1 : last + 1])
            spent += times[last] - times[0]
            cores += (cpu_seconds() - used) * (times[last] - times[0]) / max(1e-9, time.perf_counter() - times[0])
        if time.perf_counter() - began >= seconds:
            return Alone(samples / spent, cores / spent) if spent else None
    raise AssertionError


def cold_and_warm(
    parts: Parts,
    rebuild: Callable[[], Loader],
    files: ImageFiles,
    plan: EpochPlan,
    epoch: int,
    num_steps: int,
    accumulate: int,
) -> tuple[Rate, Rate]:
    """The loop's rate over the first steps of an epoch with none of their files in the kernel's cache, then once more
    with all of them there. What the cold pass loses to the warm one is the fetch stall, what the warm one loses to the
    ceiling the prep stall (Mohan et al., Analyzing and Mitigating Data Stalls in DNN Training, VLDB 2021).

    Raises:
        Unmeasurable: the kernel keeps the files, or there were too few steps to tell.
    """
    ids = np.concatenate(plan.batches(epoch)[:num_steps])
    paths = [files.paths[index] for index in np.unique(ids).tolist()]
    parts.loader.close()
    filecache.drop(paths)
    if (share := filecache.resident_share(paths)) > filecache.STILL_RESIDENT:
        raise Unmeasurable(
            f"the kernel keeps {100 * share:.0f} % of the files in memory (a memory file system, or in use)"
        )
    rates = []
    for _ in range(2):
        loader, meter = rebuild(), StepMeter(parts.device)
        try:
            train(
                replace(parts, loader=loader, val_loader=None), meter, Trained(epoch=epoch),
                Observers(lambda *_: None, lambda *_: None), epochs=None, steps=num_steps, accumulate=accumulate,
            )  # fmt: skip
        finally:
            loader.close()
        rate = _rate(measured(meter.steps, 0, loader.parallel), loader.parallel)
        if rate is None:
            raise Unmeasurable(f"an epoch has {num_steps} steps: too few to tell")
        rates.append(rate)
    return rates[0], rates[1]

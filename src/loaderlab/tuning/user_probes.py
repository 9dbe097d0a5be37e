"""The probes of a user's program: its step without the loader, its loader without the step, and both together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any

from loaderlab.attach.passes import num_samples
from loaderlab.device.base import Device
from loaderlab.loaders.torch_internals import end_workers
from loaderlab.meter import resources
from loaderlab.tuning.trial import Measured

KEPT = 4  # batches that the step gets again and again
PROBE_S = 1.0
PATIENCE = 3  # a probe may take this many times as long, until it has enough steps
LEAST = 5  # steps or batches
WARMUP = 2
Step = Callable[[Any], object]
Build = Callable[[], Iterable[Any]]


def counted(batch: Any) -> int:
    """The number of samples in a batch; 1 if it does not show: the batch is counted then."""
    return num_samples(batch) or 1


def probed(measured: Measured, build: Build, step: Step, device: Device, kept: Sequence[Any]) -> Measured:
    """The result of a trial with those of the probes of the step.

    Args:
        build: makes a new loader: one whose persistent workers have ended cannot be read again.
        kept: batches for the step.
    """
    full = [batch for batch in kept if counted(batch) == counted(kept[0])]
    ceiling = step_rate(step, full, device)
    return replace(measured, ceiling=ceiling, contended=_contended(build, step, full, device))


def step_rate(
    step: Step, batches: Sequence[Any], device: Device, after_step: Callable[[], object] = lambda: None
) -> float | None:
    """Samples/s of the step with batches that are already there; None with too few steps, or if it cannot use a batch twice.

    Args:
        after_step: called after each step.
    """
    samples, began = 0, time.perf_counter()
    for number, batch in enumerate(cycle(batches)):
        if number == WARMUP:
            device.synchronize()
            began, samples = time.perf_counter(), 0
        try:
            step(batch)
        except Exception:  # a step that changes its batch
            return None
        after_step()
        samples += counted(batch)
        passed = time.perf_counter() - began
        if passed >= (PROBE_S if number >= WARMUP + LEAST else PATIENCE * PROBE_S):
            device.synchronize()
            return samples / (time.perf_counter() - began) if number >= WARMUP + LEAST else None
    return None


def loader_alone(build: Build, parallel: int) -> tuple[float | None, float | None]:
    """Samples/s of the loader without the step, and the number of cores that it uses; None with too few batches.

    Args:
        parallel: number of batches that it prepares at the same time.

    A loader that prepares N batches at the same time delivers about N together. So each epoch is measured over a whole multiple of N
    batches, and without its first N if there are enough.
    """
    samples, spent, core_s, began = 0, 0.0, 0.0, 0.0
    while True:
        times, sizes, cpu_before = list[float](), list[int](), 0.0
        loader = build()
        iterator = iter(loader)
        try:
            for batch in iterator:
                if not times:
                    cpu_before = resources.cpu_seconds()
                    began = began or time.perf_counter()  # without the start of the workers
                times.append(time.perf_counter())
                sizes.append(counted(batch))
                enough = samples or len(times) > max(LEAST, 3 * parallel)
                if time.perf_counter() - began >= (PROBE_S if enough else PATIENCE * PROBE_S):
                    break
            used_s, lasted = resources.cpu_seconds() - cpu_before, time.perf_counter() - (times or [began])[0]
        finally:  # the loader may fail, and its workers stay otherwise
            end(loader, iterator)
        first = parallel if len(times) > 3 * parallel else 0
        last = first + (len(times) - 1 - first) // parallel * parallel
        if last > first:
            samples += sum(sizes[first + 1 : last + 1])
            spent += times[last] - times[first]
            core_s += used_s * (times[last] - times[first]) / lasted
        if not times or time.perf_counter() - began >= PROBE_S:
            return (samples / spent, core_s / spent) if spent else (None, None)


def _contended(build: Build, step: Step, batches: Sequence[Any], device: Device) -> float | None:
    """Samples/s of the step with batches that are already there, while the loader delivers one batch per step to another thread."""
    drain = _Drain(build)
    try:
        return step_rate(step, batches, device, drain.take_one)
    finally:
        drain.close()


class _Drain:
    """Takes batches from a loader in a thread, one per call of `take_one`, and discards them. A loader that is slower than the step falls
    behind and then runs without pauses, as it does in training."""

    def __init__(self, build: Build) -> None:
        self._build = build
        self._requested, self._over = threading.Semaphore(0), threading.Event()
        self._thread = threading.Thread(target=self._work, name="contention probe", daemon=True)
        self._thread.start()

    def take_one(self) -> None:
        self._requested.release()

    def _work(self) -> None:
        while not self._over.is_set():
            loader = self._build()
            iterator = iter(loader)
            any_batch = False
            try:
                for _ in iterator:
                    any_batch = True
                    self._requested.acquire()
                    if self._over.is_set():
                        break
            finally:
                end(loader, iterator)
            if not any_batch:
                return

    def close(self) -> None:
        """Waits for the current batch at most."""
        self._over.set()
        self._requested.release()
        self._thread.join()


def end(loader: Iterable[Any], iterator: Iterator[Any] | None) -> None:
    """Ends the workers of an epoch, persistent ones too."""
    if hasattr(loader, "num_workers"):
        end_workers(loader, iterator)  # type: ignore[arg-type]  # a DataLoader, or something like it

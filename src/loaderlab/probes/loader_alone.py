"""The loader-alone probe: the loader's rate without training."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

from loaderlab.device.base import Device
from loaderlab.loaders.contract import Loader
from loaderlab.meter.rates import LoaderRate
from loaderlab.probes.ceiling import PATIENCE


def loader_alone(
    loader: Loader, first_epoch: int, seconds: float, cpu_seconds: Callable[[], float], device: Device
) -> LoaderRate | None:
    """The loader's rate without training; None if an epoch has too few batches to measure.

    A loader that prepares N batches in parallel delivers about N at a time. So each epoch is measured over a whole multiple of
    N batches. If the epoch is long enough, the first N are left out: the workers that start first have already finished their
    second batches when the last worker has started.
    """
    began = time.perf_counter()
    samples = 0
    spent = core_s = 0.0
    for epoch in itertools.count(first_epoch):
        times: list[float] = []
        sizes: list[int] = []
        cpu_before = 0.0
        for batch in loader.epoch(epoch):
            loader.transfer(batch)
            device.synchronize()
            if not times:
                cpu_before = cpu_seconds()
            times.append(time.perf_counter())
            sizes.append(len(batch))
            passed = time.perf_counter() - began
            if passed >= (seconds if len(times) > 2 * loader.parallel or samples else PATIENCE * seconds):
                break
        first = loader.parallel if len(times) > 3 * loader.parallel else 0
        last = first + (len(times) - 1 - first) // loader.parallel * loader.parallel
        if last > first:
            samples += sum(sizes[first + 1 : last + 1])
            spent += times[last] - times[first]
            core_s += (
                (cpu_seconds() - cpu_before) * (times[last] - times[first]) / max(1e-9, time.perf_counter() - times[0])
            )
        if time.perf_counter() - began >= seconds:
            return LoaderRate(samples / spent, core_s / spent) if spent else None
    raise AssertionError

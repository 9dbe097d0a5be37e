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

    A loader that prepares N batches in parallel delivers about N at a time. So each epoch is measured from its first
    batch over a whole multiple of N batches.
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
        last = (len(times) - 1) // loader.parallel * loader.parallel
        if last > 0:
            samples += sum(sizes[1 : last + 1])
            spent += times[last] - times[0]
            core_s += (
                (cpu_seconds() - cpu_before) * (times[last] - times[0]) / max(1e-9, time.perf_counter() - times[0])
            )
        if time.perf_counter() - began >= seconds:
            return LoaderRate(samples / spent, core_s / spent) if spent else None
    raise AssertionError

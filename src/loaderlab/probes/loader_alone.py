"""The probe of the loader alone: its rate with nobody training."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import torch

from loaderlab.loaders.contract import Loader
from loaderlab.meter.rates import LoaderRate
from loaderlab.probes.ceiling import PATIENCE


def loader_alone(
    loader: Loader, first_epoch: int, seconds: float, cpu_seconds: Callable[[], float], device: torch.device
) -> LoaderRate | None:
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
            passed = time.perf_counter() - began
            if passed >= (seconds if len(times) > 2 * loader.parallel or samples else PATIENCE * seconds):
                break
        last = (len(times) - 1) // loader.parallel * loader.parallel
        if last > 0:
            samples += sum(sizes[1 : last + 1])
            spent += times[last] - times[0]
            cores += (cpu_seconds() - used) * (times[last] - times[0]) / max(1e-9, time.perf_counter() - times[0])
        if time.perf_counter() - began >= seconds:
            return LoaderRate(samples / spent, cores / spent) if spent else None
    raise AssertionError

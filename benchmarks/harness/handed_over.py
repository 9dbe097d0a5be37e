"""Batches that workers hand over to a trainer whose step sleeps."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from loaderlab import loaders
from loaderlab.config import NativeLoader
from loaderlab.data.spec import Split, UserItems
from loaderlab.device.cpu import Cpu
from loaderlab.loaders.contract import EpochPlan

NUM_STORED = 512  # different samples at most
STORED_BYTES = 2**27  # of all samples at most
MANY = 10**9  # samples of an epoch, so that no epoch ends during a measurement


@dataclass(frozen=True)
class BatchKind:
    """The batches of one comparison: the shape of a sample, its dtype and the number of samples."""

    batch_size: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Bytes of a batch's inputs."""
        return self.batch_size * math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        sizes = " x ".join(map(str, (self.batch_size, *self.shape)))
        return f"{sizes} {str(self.dtype).removeprefix('torch.')} ({self.num_bytes / 1024:,.0f} KiB)"


KINDS = {
    "images": BatchKind(256, (3, 224, 224), torch.uint8),
    "cifar": BatchKind(32, (3, 32, 32), torch.float32),
    "vectors": BatchKind(32, (64,), torch.float32),
}


class Stored(Dataset[Any]):
    """Samples in memory that are repeated."""

    def __init__(self, kind: BatchKind) -> None:
        sample_bytes = kind.num_bytes // kind.batch_size
        count = max(2, min(NUM_STORED, STORED_BYTES // sample_bytes))
        self.samples = torch.randint(0, 255, (count, *kind.shape), dtype=torch.uint8).to(kind.dtype)

    def __len__(self) -> int:
        return MANY

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.samples[index % len(self.samples)], index % 10


class Ascending(EpochPlan):
    """Ascending ids, without an array of all ids."""

    @property
    def num_steps(self) -> int:
        return self.num_samples // self.batch_size

    def batches(self, epoch: int) -> Any:  # requests are made one at a time
        starts = itertools.count(0, self.batch_size)
        return (np.arange(start, start + self.batch_size) for start in itertools.islice(starts, self.num_steps))


def torch_batches(kind: BatchKind, workers: int) -> Iterator[Any]:
    """The batches of PyTorch's own DataLoader."""
    return iter(
        DataLoader(
            Stored(kind),
            kind.batch_size,
            num_workers=workers,
            persistent_workers=True,
            drop_last=True,
            multiprocessing_context="fork",
        )
    )


def native_batches(kind: BatchKind, workers: int) -> Iterator[Any]:
    """The batches of ``loader=native`` with ``data=custom``."""
    split = Split(UserItems(Stored(kind), False, None, None, 10))
    plan = Ascending(MANY, kind.batch_size, shuffle=False, drop_last=True)
    return loaders.build(NativeLoader(num_workers=workers), split, plan, Cpu()).epoch(0)


def waits_ms(batches: Iterator[Any], steps: int, step_s: float, discarded: int) -> list[float]:
    """The data wait of each step: the time in ``next``, in milliseconds. A step sleeps.

    Args:
        discarded: steps at the beginning that are not counted, because their batches were made ahead.
    """
    waits = []
    for _ in range(discarded + steps):
        began = time.perf_counter()
        batch = next(batches)
        waits.append(1e3 * (time.perf_counter() - began))
        time.sleep(step_s)
        del batch
    return waits[discarded:]

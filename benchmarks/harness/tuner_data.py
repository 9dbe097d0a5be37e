"""Samples whose batches take a planted time, and a step that needs a core: see `benchmarks.harness.tuner_cases`."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, get_worker_info

from loaderlab.device.timeline import NS_PER_MS, RealClock

NUM_FEATURES, NUM_CLASSES = 4, 2
EPOCH_STEPS = 4000  # an epoch takes more than a minute: the gap between two epochs is a small share of it
MIB = 1024 * 1024
CLOCK = RealClock()


class PlantedBatches(Dataset[tuple[torch.Tensor, int]]):
    """Samples whose batches take a planted time, in the training process or in a worker.

    Args:
        batch_size: of the run.
        sleep_ms: time of a batch that needs no core.
        cpu_ms: CPU time of a batch.
        locked_ms: time of a batch during which no other worker can do the same; it needs no core.
        crowd_ms: time of a batch that is multiplied by the fourth power of the number of workers.
        long_ms, every: every so many batches of a worker, one takes so much longer.
        worker_mib: memory that each worker allocates.
        lock: name of the lock, for jobs at the same time.
    """

    def __init__(
        self,
        batch_size: int,
        sleep_ms: float = 0.0,
        cpu_ms: float = 0.0,
        locked_ms: float = 0.0,
        crowd_ms: float = 0.0,
        long_ms: float = 0.0,
        every: int = 16,
        worker_mib: int = 0,
        lock: str = "tuner",
    ) -> None:
        self._batch_size, self._sleep_ms, self._cpu_ms = batch_size, sleep_ms, cpu_ms
        self._locked_ms, self._crowd_ms = locked_ms, crowd_ms
        self._long_ms, self._every, self._num_batches = long_ms, every, 0
        self._worker_mib, self._allocated = worker_mib, np.empty(0, dtype=np.uint8)
        self._lock = Path(tempfile.gettempdir()) / f"loaderlab_{lock}.lock"

    def __len__(self) -> int:
        return self._batch_size * EPOCH_STEPS

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((NUM_FEATURES,), index / len(self)), index % NUM_CLASSES

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, int]]:
        self._allocate()
        self._num_batches += 1
        is_long = bool(self._long_ms) and self._num_batches % self._every == 0
        worker = get_worker_info()
        num_workers = worker.num_workers if worker else 1
        sleep_ms(self._sleep_ms + is_long * self._long_ms + self._crowd_ms * num_workers**4)
        spend_ms(self._cpu_ms)
        if self._locked_ms:
            with _locked(self._lock):
                sleep_ms(self._locked_ms)
        return [self[index] for index in indices]

    def _allocate(self) -> None:
        """Allocates a worker's memory before its first batch. Ones: pages of zeros would not be used."""
        if self._worker_mib and not len(self._allocated) and get_worker_info() is not None:
            self._allocated = np.ones(self._worker_mib * MIB, dtype=np.uint8)


class PlantedModel(nn.Module):
    """A linear layer whose forward pass takes a planted CPU time."""

    def __init__(self, cpu_ms: float) -> None:
        super().__init__()
        self._cpu_ms, self._layer = cpu_ms, nn.Linear(NUM_FEATURES, NUM_CLASSES)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        spend_ms(self._cpu_ms)
        logits: torch.Tensor = self._layer(inputs)
        return logits


def sleep_ms(duration_ms: float) -> None:
    """Sleeps for a time; needs no core."""
    CLOCK.sleep_until(CLOCK.now() + round(duration_ms * NS_PER_MS))


def spend_ms(duration_ms: float) -> None:
    """Uses a core until this thread's own time has advanced so far: longer by the clock if it has to wait for a core."""
    CLOCK.spend(round(duration_ms * NS_PER_MS))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Takes a lock between processes. The kernel releases it if the process is killed."""
    with path.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

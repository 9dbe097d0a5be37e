"""A clock that only planted times advance, and samples whose batches take a planted time."""

from __future__ import annotations

import torch
from torch.utils.data import Dataset

MS = 1_000_000
BATCH = 4


class Clock:
    """A clock in nanoseconds that advances only by `pass_ms`."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def pass_ms(self, ms: float) -> None:
        self.now += round(ms * MS)


clock = Clock()
clock.now = MS


class Samples(Dataset[torch.Tensor]):
    """Samples whose batches take a planted time."""

    def __init__(self, batches: int, wait_ms: float) -> None:
        self.batches, self.wait_ms = batches, wait_ms

    def __len__(self) -> int:
        return BATCH * self.batches

    def __getitem__(self, index: int) -> torch.Tensor:
        clock.pass_ms(self.wait_ms / BATCH)
        return torch.zeros(2)

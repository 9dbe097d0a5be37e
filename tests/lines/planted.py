"""Stacks, recordings and datasets with planted times."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.utils.data._utils.fetch as fetch
import torch.utils.data._utils.worker as worker
from torch.utils.data import Dataset, IterableDataset

from loaderlab.lines.stacks import Frame, Recording, Sample

MS = 1_000_000
FETCH, WORKER = str(fetch.__file__), str(worker.__file__)
WAITS = (Frame(WORKER, line=260, function="_worker_loop"), Frame("/usr/lib/queues.py", 100, "get"))


def line_with(path: str, text: str) -> int:
    """The number of the first line of a file that contains a text."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return 1 + next(index for index, line in enumerate(lines) if text in line)


ITEMS = Frame(FETCH, line_with(FETCH, "self.dataset[idx] for idx"), "fetch")
COLLATES = Frame(FETCH, line_with(FETCH, "return self.collate_fn(data)"), "fetch")


def span(begin_ms: int, end_ms: int, *stack: Frame, computing: float = 1.0, others: float = 0.0) -> list[Sample]:
    """Samples of 10 ms."""
    return [Sample(time * MS, (time + 10) * MS, computing, others, stack) for time in range(begin_ms, end_ms, 10)]


def recording(*spans: list[Sample], cost_ms: int = 0) -> Recording:
    return Recording(tuple(sample for span in spans for sample in span), cost_ns=cost_ms * MS)


class SlowTransform:
    def __call__(self, item: torch.Tensor) -> torch.Tensor:
        time.sleep(0.004)  # planted: transform
        return item


class Sleeping(Dataset[torch.Tensor]):
    """Samples of 5 ms, of which 4 are in the transform."""

    def __init__(self) -> None:
        self.transform = SlowTransform()

    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(0.001)
        return self.transform(torch.zeros(2))


class Stream(IterableDataset[torch.Tensor]):
    """The same as a stream."""

    def __init__(self) -> None:
        self.transform = SlowTransform()

    def __iter__(self) -> Iterator[torch.Tensor]:
        for _ in range(10_000):
            time.sleep(0.001)
            yield self.transform(torch.zeros(2))


class Computing(Dataset[torch.Tensor]):
    """Samples whose time is in an operator between two lines with calls, in which Python's own handlers do not run."""

    def __init__(self) -> None:
        self.values = torch.rand(400, 400, dtype=torch.float64).numpy()

    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, index: int) -> torch.Tensor:
        start = float(self.values[0, 0])
        powers = self.values**1.7  # planted: operator
        return torch.full((2,), start + float(powers[0, 0]))


class Calls(Dataset[torch.Tensor]):
    """Samples whose time is in two calls of C, of which the first releases the GIL."""

    def __init__(self) -> None:
        self.data = bytes(8_000_000)
        self.numbers = [number * 7919 % 100_003 for number in range(60_000)]

    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, index: int) -> torch.Tensor:
        digest = hashlib.blake2b(self.data)  # planted: releases the GIL
        order = sorted(self.numbers)  # planted: holds the GIL
        return torch.full((2,), float(digest.digest()[0] + order[0]))

"""Datasets and a model for the tests of several ranks."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

Item = tuple[torch.Tensor, int]
CLASSES = 4
FEATURES = 8


def clusters(num_samples: int, seed: int) -> list[Item]:
    """Vectors around a centre for each class."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, CLASSES, (num_samples,), generator=random).tolist()
    noise = torch.randn(num_samples, FEATURES, generator=random)
    return [(centres[label] + noise[index], label) for index, label in enumerate(labels)]


class Listed(Dataset[Item]):
    """Items of a list."""

    classes = tuple(map(str, range(CLASSES)))

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Item:
        return self._items[index]


def vectors(num_train: int, num_val: int) -> tuple[Listed, Listed]:
    """Two sets of clusters."""
    return Listed(clusters(num_train, 1)), Listed(clusters(num_val, 2))


def normed() -> nn.Module:
    """A model with batch normalisation."""
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, CLASSES))


class Random(Listed):
    """Items that torch's random numbers augment."""

    def __getitem__(self, index: int) -> Item:
        return torch.rand(FEATURES), self._items[index][1]


def random(num_samples: int) -> Random:
    """A set with random inputs."""
    return Random(clusters(num_samples, 1))


class Stream(IterableDataset[Item]):
    """The samples of this rank in order, without a length: every w-th of the first `num_samples`, without the last ones.

    Args:
        cut: left out at the end, by rank.
        world_size: 1: all of them.
    """

    classes = tuple(map(str, range(CLASSES)))

    def __init__(self, num_samples: int, cut: Sequence[int], world_size: int) -> None:
        self._rank = int(os.environ["RANK"]) if world_size > 1 else 0
        items = clusters(num_samples, 1)[self._rank :: world_size]
        self._items = items[: len(items) - cut[self._rank]]

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)


def stream(num_samples: int, cut: Sequence[int], world_size: int) -> Stream:
    """See `Stream`."""
    return Stream(num_samples, cut, world_size)


class Failing(Listed):
    """Fails at an item of this process's own count."""

    def __init__(self, items: Sequence[Item], how: str, at: int) -> None:
        super().__init__(items)
        self._how, self._at, self._count = how, at, 0

    def __getitem__(self, index: int) -> Item:
        self._count += 1
        if self._how == "slow":
            time.sleep(0.002)
        if self._count == self._at:
            if self._how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self._how == "raise":
                raise ValueError("this sample is bad")
            elif self._how == "exit":
                os._exit(7)
        return super().__getitem__(index)


def failing(how: str, ranks: Sequence[int], at: int = 200, num_samples: int = 4000) -> Listed:
    """A set that fails on these ranks."""
    is_here = int(os.environ["RANK"]) in ranks
    return Failing(clusters(num_samples, 1), how if is_here else "", at)


def unequal(num_samples: int) -> Listed:
    """A set with one sample more on each further rank."""
    return Listed(clusters(num_samples + int(os.environ["RANK"]), 1))

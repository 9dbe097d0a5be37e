"""Loaders and steps of the tests of `loaderlab.tune`, at the top level so that another process can import them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, SequentialSampler, get_worker_info

BATCH = 4


class Sleeping(Dataset[torch.Tensor]):
    """Samples that take some time."""

    def __init__(self, length: int = 400, sample_s: float = 0.0) -> None:
        self.length, self.sample_s = length, sample_s

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(self.sample_s)
        return torch.full((8,), float(index))


class Ending(Sleeping):
    """Samples; one after the first cannot be read."""

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 40:
            raise ValueError("a broken file")
        return super().__getitem__(index)


class Stream(IterableDataset[torch.Tensor]):
    """Numbers, of which each worker returns its part, or all."""

    def __init__(self, *, shares: bool, constant: bool = False) -> None:
        self.shares, self.constant = shares, constant

    def __iter__(self) -> Iterator[torch.Tensor]:
        worker = get_worker_info() if self.shares else None
        first, number = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for index in islice(range(400), first, None, number):
            yield torch.tensor(0.0 if self.constant else float(index))


class OneShard(Stream):
    """A stream with one shard, which refuses a worker without one."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        if (worker := get_worker_info()) is not None and worker.num_workers > 1:
            raise ValueError("more workers than shards")
        return super().__iter__()


def step(batch: torch.Tensor) -> None:
    time.sleep(0.004)


def failing_step(batch: torch.Tensor) -> None:
    raise ValueError("shapes do not match")


def picky_step(batch: torch.Tensor) -> None:
    """Fails with a batch that it has seen before."""
    if batch[0, 0] < 0:
        raise ValueError("seen before")
    batch.fill_(-1.0)


def in_a_list(samples: list[torch.Tensor]) -> list[str]:
    """A batch that does not show its number of samples."""
    return [f"{sample[0]:.0f}" for sample in samples]


def collate(samples: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(samples)


def init_worker(number: int) -> None:
    pass


def make_loader(
    num_workers: int,
    prefetch_factor: int | None,
    pin_memory: bool,
    persistent_workers: bool,
    multiprocessing_context: Any,
) -> DataLoader[torch.Tensor]:
    return DataLoader(
        Sleeping(sample_s=0.002),
        batch_size=BATCH,
        num_workers=num_workers,
        prefetch_factor=prefetch_factor,
        pin_memory=pin_memory,
        persistent_workers=persistent_workers,
        multiprocessing_context=multiprocessing_context,
    )


def make_batches(num_workers: int, **others: Any) -> list[torch.Tensor]:
    return [torch.full((BATCH, 2), float(index)) for index in range(60)]


def at_most_two_workers(num_workers: int, **others: Any) -> DataLoader[torch.Tensor]:
    return make_loader(min(num_workers, 2), **others)


def takes_workers_only(num_workers: int) -> DataLoader[torch.Tensor]:
    return DataLoader(Sleeping(), num_workers=num_workers)


def ignores_settings(**settings: Any) -> DataLoader[torch.Tensor]:
    return DataLoader(Sleeping(), num_workers=1)


class Named(DataLoader[torch.Tensor]):
    """A subclass that does not keep an argument of its own."""

    def __init__(self, folder: str, **others: Any) -> None:
        super().__init__(Sleeping(), **others)


class Kept(DataLoader[torch.Tensor]):
    """A subclass that keeps its argument."""

    def __init__(self, dataset: Dataset[torch.Tensor], scale: float, **others: Any) -> None:
        super().__init__(dataset, **others)
        self.scale = scale


class Batched(DataLoader[torch.Tensor]):
    """A subclass with a batch size and the settings, but without samplers."""

    def __init__(
        self,
        dataset: Dataset[torch.Tensor],
        batch_size: int = 1,
        shuffle: bool = False,
        num_workers: int = 0,
        prefetch_factor: int | None = None,
        pin_memory: bool = False,
        persistent_workers: bool = False,
    ) -> None:
        super().__init__(
            dataset,
            batch_size,
            shuffle,
            num_workers=num_workers,
            prefetch_factor=prefetch_factor,
            pin_memory=pin_memory,
            persistent_workers=persistent_workers,
        )


class Graphs(DataLoader[torch.Tensor]):
    """A subclass that names some arguments and passes the others on, as that of PyTorch Geometric."""

    def __init__(
        self, dataset: Dataset[torch.Tensor], batch_size: int = 1, shuffle: bool = False, **others: Any
    ) -> None:
        super().__init__(dataset, batch_size, shuffle, **others)


class OwnSampler(DataLoader[torch.Tensor]):
    """A subclass that makes its batch sampler from its batch size."""

    def __init__(self, dataset: Dataset[torch.Tensor], batch_size: int = 1, **others: Any) -> None:
        if "batch_sampler" in others:
            raise ValueError("it makes its batch sampler itself")
        sampler = BatchSampler(SequentialSampler(dataset), batch_size, False)  # type: ignore[arg-type]  # it has a length
        super().__init__(dataset, batch_sampler=sampler, **others)


class OwnSettings(Batched):
    """A subclass that makes its batch sampler, and passes nothing else on."""

    def __init__(
        self,
        dataset: Dataset[torch.Tensor],
        batch_size: int = 1,
        num_workers: int = 0,
        prefetch_factor: int | None = None,
        pin_memory: bool = False,
        persistent_workers: bool = False,
    ) -> None:
        DataLoader.__init__(
            self,
            dataset,
            batch_sampler=BatchSampler(SequentialSampler(dataset), batch_size, False),  # type: ignore[arg-type]  # as above
            num_workers=num_workers,
            prefetch_factor=prefetch_factor,
            pin_memory=pin_memory,
            persistent_workers=persistent_workers,
        )


class Fixed(DataLoader[torch.Tensor]):
    """A subclass without the settings."""

    def __init__(self, dataset: Dataset[torch.Tensor]) -> None:
        super().__init__(dataset, batch_size=2)

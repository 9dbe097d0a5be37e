"""What is known of a loader object."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from loaderlab.attach.loader_facts import facts_of


class Folder(Dataset[torch.Tensor]):
    def __init__(self, root: Path) -> None:
        self.root = root

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.ones(1)


class Stream(IterableDataset[int]):
    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[int]:
        return iter(range(6))


def test_the_data_of_a_loader(tmp_path: Path) -> None:
    facts = facts_of(DataLoader(Folder(tmp_path), batch_size=4), 0)
    assert (facts.num_samples, facts.num_batches, facts.batch_size) == (10, 3, 4)
    assert facts.file_system
    assert facts_of(DataLoader(TensorDataset(torch.ones(4, 2))), 0).file_system == ""


def test_a_stream_is_not_asked_for_its_number_of_batches() -> None:
    """Otherwise torch compares the length with what the stream delivers, and warns."""
    loader = DataLoader(Stream())
    facts = facts_of(loader, 0)
    assert (facts.num_samples, facts.num_batches) == (2, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(loader)) == 6

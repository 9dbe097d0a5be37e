from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from loaderlab.config import NativeLoader, VectorsData
from loaderlab.data import vectors
from loaderlab.device.cpu import Cpu
from loaderlab.loaders.contract import EpochPlan
from loaderlab.loaders.native import Native
from loaderlab.loaders.slot_writer import batch_memory
from loaderlab.loaders.torch_internals import batches_of, end_workers, shared_storage


class Squares(Dataset[Any]):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Any:
        if index == 15:
            raise ValueError("the sixteenth item")
        return index**2


@pytest.fixture
def loader() -> Iterator[DataLoader[Any]]:
    loader: DataLoader[Any] = DataLoader(Squares(), batch_size=4, num_workers=2, persistent_workers=True)
    yield loader
    end_workers(loader)


def workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]


def test_shared_storage_is_shared_without_a_copy() -> None:
    tensor = torch.empty(0, dtype=torch.uint8).set_(shared_storage(12)).view(3, 4)
    assert tensor.is_shared()
    before = tensor.data_ptr()
    assert tensor.share_memory_().data_ptr() == before  # already shared, so nothing is copied
    assert not batch_memory((3, 4), torch.uint8).is_shared()  # in the training process


def test_workers_end_while_the_iterator_of_a_stopped_epoch_exists(loader: DataLoader[Any]) -> None:
    before = len(workers())
    epoch = iter(loader)
    next(epoch)
    assert len(workers()) == before + 2
    end_workers(loader)
    assert len(workers()) == before
    end_workers(loader)  # may be called twice


def test_workers_end_while_an_exception_is_handled(loader: DataLoader[Any]) -> None:
    before = len(workers())
    with pytest.raises(ValueError, match="the sixteenth item") as error:
        list(loader)
    assert len(workers()) == before + 2
    end_workers(loader)
    assert len(workers()) == before
    assert error.value is not None


def test_a_loader_without_workers_has_none_to_end() -> None:
    end_workers(DataLoader(Squares(), num_workers=0))
    end_workers(DataLoader(Squares(), num_workers=2, persistent_workers=True))  # not started


def test_a_closed_native_loader_leaves_no_worker() -> None:
    before = len(workers())
    split = vectors.build(VectorsData(num_samples=16, num_features=4)).train
    native = Native(NativeLoader(num_workers=2), split, EpochPlan(16, 4, False, False), Cpu())
    epoch = native.epoch(0)
    next(epoch)
    assert len(workers()) == before + 2
    native.close()
    assert len(workers()) == before


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_of_an_iterator(num_workers: int) -> None:
    loader: DataLoader[Any] = DataLoader(torch.arange(10), 2, num_workers=num_workers)  # type: ignore[arg-type]
    batches = list(batches_of(iter(loader)))
    assert [batch.tolist() for batch in batches] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert list(batches_of(iter([1, 2]))) == [1, 2], "a torch without this private function"


def test_batches_of_an_iterator_are_not_kept() -> None:
    for batch in batches_of(iter(DataLoader(torch.arange(4)))):  # type: ignore[arg-type]
        assert sys.getrefcount(batch) == 2  # this variable and the argument

"""The time of a worker's stages is measured with as many torch threads as a worker has."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from loaderlab import loaders
from loaderlab.config import LoaderConfig, NativeLoader, SpdlLoader
from loaderlab.data.spec import Split, UserItems
from loaderlab.device.cpu import Cpu
from loaderlab.loaders.contract import EpochPlan


class Watched(Dataset[Any]):
    """Items that record the number of torch threads with which they are read."""

    classes = ("even", "odd")

    def __init__(self) -> None:
        self.threads: set[int] = set()

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.threads.add(torch.get_num_threads())
        if index == 19:
            raise KeyError("no such item")
        return torch.full((2,), float(index)), index % 2


CASES: dict[str, tuple[LoaderConfig, int]] = {
    "workers": (NativeLoader(num_workers=2), 1),
    "workers, one sample at a time": (NativeLoader(num_workers=2, batched=False), 1),
    "SPDL's threads": (SpdlLoader(num_threads=2), 1),
    "no workers": (NativeLoader(num_workers=0), 3),  # the training process builds the batches
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("num_samples", [8, 20])
def test_stages_use_the_threads_of_a_worker(case: str, num_samples: int) -> None:
    """Also if the 20th sample cannot be read, so that nothing is measured."""
    config, expected = CASES[case]
    dataset = Watched()
    torch.set_num_threads(3)
    plan = EpochPlan(num_samples, 4, False, False)
    loader = loaders.build(config, Split(UserItems(dataset, False, None, None, 2)), plan, Cpu())
    with contextlib.closing(loader):
        stages = loader.stages(60.0)
    assert (stages is None) == (num_samples == 20)
    assert dataset.threads == {expected}
    assert torch.get_num_threads() == 3

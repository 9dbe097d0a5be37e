"""Garbage of the training process: a forked worker must not collect it, since that may call CUDA."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from loaderlab.config import NativeLoader
from loaderlab.data.spec import Split, UserItems
from loaderlab.device.cpu import Cpu
from loaderlab.loaders.contract import EpochPlan
from loaderlab.loaders.native import Native


class Garbage:
    """An object in a reference cycle that notes the process in which it is collected."""

    def __init__(self, log: Path) -> None:
        self.itself, self._log = self, log

    def __del__(self) -> None:
        with self._log.open("a", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")


class Collecting(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Collects garbage for each sample. A sample is 1 if the collector is enabled, otherwise 0."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        gc.collect()
        return torch.full((1,), float(gc.isenabled())), 0


@pytest.fixture
def paused_collector() -> Iterator[None]:
    """The garbage stays until it is collected explicitly."""
    gc.disable()
    yield
    gc.enable()


def samples(num_workers: int) -> list[float]:
    split = Split(UserItems(Collecting(), False, None, None, 2))
    loader = Native(NativeLoader(num_workers=num_workers), split, EpochPlan(4, 2, False, False), Cpu())
    values = np.concatenate([batch.inputs.numpy().ravel() for batch in loader.epoch(0)])
    loader.close()
    return list(values.tolist())


@pytest.mark.usefixtures("paused_collector")
def test_a_worker_does_not_collect_the_garbage_of_the_training_process(tmp_path: Path) -> None:
    log = tmp_path / "collected"
    Garbage(log)
    samples(num_workers=1)
    assert not log.exists(), "collected in the worker"
    gc.collect()
    assert log.read_text(encoding="utf-8") == f"{os.getpid()}\n"


def test_the_collector_is_paused_only_while_workers_start(monkeypatch: pytest.MonkeyPatch) -> None:
    enabled = []
    start = DataLoader.__iter__

    def iterator(loader: DataLoader[object]) -> object:
        enabled.append(gc.isenabled())
        return start(loader)

    monkeypatch.setattr(DataLoader, "__iter__", iterator)
    assert samples(num_workers=1) == [1.0] * 4, "the worker's own garbage is collected"
    assert enabled == [False]
    assert gc.isenabled()


@pytest.mark.usefixtures("paused_collector")
def test_a_program_without_a_collector_stays_without_it() -> None:
    assert samples(num_workers=1) == [0.0] * 4
    assert not gc.isenabled()

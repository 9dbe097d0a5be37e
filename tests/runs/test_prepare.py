"""Garbage is collected before workers are started, outside the loop."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from torch.utils.data import DataLoader

from loaderlab.config import TrainConfig
from loaderlab.device.capabilities import CPU
from loaderlab.loaders.capabilities import LoaderCapabilities, Makers
from loaderlab.runs import job, prepare, run
from loaderlab.system.terminal import Terminal

GPU = replace(CPU, asynchronous=True)


class Cycle:
    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def garbage() -> Iterator[weakref.ref[Cycle]]:
    """An object that only the garbage collector frees, and the collector runs only when it is called."""
    gc.disable()
    yield weakref.ref(Cycle())
    gc.enable()


def loader(num_workers: int, *, are_processes: bool = True) -> Any:
    makers = Makers(num_workers, "loader.num_workers", are_processes, whole_batches=True)
    return SimpleNamespace(capabilities=LoaderCapabilities(makers))


@pytest.mark.parametrize(
    ("device", "loaders", "collects"),
    [
        (GPU, [loader(2)], True),
        (GPU, [SimpleNamespace(capabilities=LoaderCapabilities()), loader(1)], True),
        (GPU, [loader(0)], False),
        (GPU, [loader(2, are_processes=False)], False),
        (CPU, [loader(2)], False),
    ],
)
def test_garbage_is_collected_if_workers_could_inherit_device_memory(
    garbage: weakref.ref[Cycle], device: Any, loaders: list[Any], collects: bool
) -> None:
    assert garbage() is not None
    prepare.collect_before_fork(device, loaders)
    assert (garbage() is None) == collects


def test_garbage_is_collected_once_before_the_first_worker_starts(
    make_config: Callable[..., TrainConfig], terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    start = DataLoader.__iter__

    def iterator(loader: DataLoader[Any]) -> Any:
        calls.append("workers")
        return start(loader)

    monkeypatch.setattr(prepare, "collect_before_fork", lambda device, loaders: calls.append(f"{len(loaders)} loaders"))
    monkeypatch.setattr(DataLoader, "__iter__", iterator)
    config = make_config("device=cpu", "loader.num_workers=1", "epochs=2", "loader.persistent_workers=false")
    run.run(config, job.single(config, []), terminal)
    assert calls == ["2 loaders", *["workers"] * 4]  # training and validation, twice

"""Garbage is collected before the loop and before workers are started."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from torch.utils.data import DataLoader

from loaderlab.config import TrainConfig
from loaderlab.runs import job, prepare, run
from loaderlab.system.terminal import Terminal


class Cycle:
    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def garbage() -> Iterator[weakref.ref[Cycle]]:
    """An object that only the garbage collector frees, and the collector runs only when it is called."""
    gc.disable()
    yield weakref.ref(Cycle())
    gc.enable()


def test_garbage_is_collected(garbage: weakref.ref[Cycle]) -> None:
    assert garbage() is not None
    prepare.collect_garbage()
    assert garbage() is None


def test_garbage_is_collected_once_before_the_first_worker_starts(
    make_config: Callable[..., TrainConfig], terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    start = DataLoader.__iter__

    def iterator(loader: DataLoader[Any]) -> Any:
        calls.append("workers")
        return start(loader)

    monkeypatch.setattr(prepare, "collect_garbage", lambda: calls.append("collected"))
    monkeypatch.setattr(DataLoader, "__iter__", iterator)
    config = make_config("device=cpu", "loader.num_workers=1", "epochs=2", "loader.persistent_workers=false")
    run.run(config, job.single(config, []), terminal)
    assert calls == ["collected", *["workers"] * 4]  # training and validation, twice

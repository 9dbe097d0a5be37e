"""The event ring without a device: fake events, each 1 ms after the one before."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from loaderlab.device.clock import RING, EventRing
from loaderlab.device.cuda import Cuda


class Event:
    """An event that is done at once, 1 ms after any other event."""

    def record(self, stream: object) -> None:
        pass

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, other: object) -> float:
        return 1.0


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> EventRing:
    full = torch.full

    def unpinned(*arguments: Any, pin_memory: bool, **options: Any) -> torch.Tensor:
        return full(*arguments, **options)

    monkeypatch.setattr(torch, "full", unpinned)
    monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: Event())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    return EventRing(Cuda())


def test_a_step_without_a_loss_does_not_get_an_older_steps_loss(ring: EventRing) -> None:
    """The ring reuses its slots; this loop gives a loss only every tenth step."""
    steps = []
    ring.begin()
    for index in range(4 * RING):
        for phase in range(5):
            ring.mark(phase)
        if index % 10 == 0:
            ring.loss(torch.tensor(float(index)))
        steps += [step for step in [ring.end()] if step is not None]
    steps += ring.drain()
    assert len(steps) == 4 * RING
    assert {index: step.loss for index, step in enumerate(steps) if not math.isnan(step.loss)} == {
        index: float(index) for index in range(0, 4 * RING, 10)
    }

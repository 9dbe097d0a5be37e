"""The ring of events, without a device: every event is a moment of a list."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from loaderlab.device.clock import RING, EventRing


class Event:
    """Has happened at once, and took no time."""

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

    def unpinned(*arguments: Any, pin_memory: bool) -> torch.Tensor:
        return full(*arguments)

    monkeypatch.setattr(torch, "full", unpinned)
    monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: Event())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    return EventRing(torch.device("cuda"))


def test_a_step_without_a_loss_has_not_that_of_an_older_step(ring: EventRing) -> None:
    """The slots of the ring are used again: a loop that gives its loss every tenth step only, say."""
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

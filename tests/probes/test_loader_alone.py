"""The rate of the loader alone, with exact times."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch

from loaderlab.device.cpu import Cpu
from loaderlab.loaders.contract import Batch, Loader
from loaderlab.probes.loader_alone import loader_alone

SIZE = 8
WORKERS = 4
BATCH_S = 0.1  # of one worker


class Clock:
    """A clock that moves when a batch has to be waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now_s)


class Started(Loader):
    """Workers with two batches each in their queue.

    Args:
        first_s: until the training process can receive the first batch: it starts all the workers before.
    """

    def __init__(self, clock: Clock, num_steps: int, first_s: float) -> None:
        self._clock, self._num_steps, self._first_s = clock, num_steps, first_s

    @property
    def num_steps(self) -> int:
        return self._num_steps

    @property
    def parallel(self) -> int:
        return WORKERS

    def epoch(self, epoch: int) -> Iterator[Batch]:
        finished_s = [self._clock.now_s] * WORKERS
        self._clock.now_s += self._first_s
        received_s: list[float] = []
        for number in range(self._num_steps):
            worker = number % WORKERS
            requested_s = received_s[number - 2 * WORKERS] if number >= 2 * WORKERS else 0.0
            finished_s[worker] = max(finished_s[worker], requested_s) + BATCH_S
            self._clock.now_s = max(self._clock.now_s, finished_s[worker])
            received_s.append(self._clock.now_s)
            yield Batch(torch.zeros(SIZE, 1), torch.zeros(SIZE, dtype=torch.int64), None)

    def transfer(self, batch: Batch) -> Batch:
        return batch

    def close(self) -> None:
        pass


@pytest.mark.parametrize("first_s", [0.0, 0.15, 0.2])
def test_batches_that_were_finished_while_workers_started_do_not_count(
    first_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    alone = loader_alone(Started(clock, 200, first_s), 0, 1.0, lambda: 2.0 * clock.now_s, Cpu())
    assert alone is not None
    assert alone.samples_per_s == pytest.approx(WORKERS * SIZE / BATCH_S)
    assert alone.cores == pytest.approx(2.0)


def test_a_short_epoch_is_measured_from_its_first_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    alone = loader_alone(Started(clock, 2 * WORKERS, 0.0), 0, 1.0, lambda: 0.0, Cpu())
    assert alone is not None
    assert alone.samples_per_s == pytest.approx(WORKERS * SIZE / BATCH_S)


def test_an_epoch_with_fewer_batches_than_workers_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    assert loader_alone(Started(clock, WORKERS, 0.0), 0, 1.0, lambda: 0.0, Cpu()) is None

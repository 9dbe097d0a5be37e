"""The step of an emulated accelerator in the real loop, with exact times on a virtual clock."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from loaderlab import metrics
from loaderlab.config import AcceleratorConfig, NativeLoader
from loaderlab.device.emulated import Emulated
from loaderlab.device.timeline import NS_PER_MS as MS
from loaderlab.device.timeline import VirtualClock
from loaderlab.loaders.contract import Batch, Loader
from loaderlab.loaders.copying import DeviceCopy
from loaderlab.meter.phases import StepMeter
from loaderlab.meter.step import Step
from loaderlab.meter.summary import summarize
from loaderlab.training.emulated import EmulatedStep
from loaderlab.training.loop import Observers, Parts, train
from loaderlab.training.step import Progress

BATCH_SIZE = 18
BATCH_BYTES = BATCH_SIZE * (4 + 8)
RUNGS = {  # pin_memory, non_blocking, side_stream, as the ladder sets them
    "pageable": (False, False, False),
    "pinned": (True, False, False),
    "non-blocking": (True, True, False),
    "side stream": (True, True, True),
}


def batch_of(size: int) -> Batch:
    return Batch(torch.zeros(size, 1), torch.zeros(size, dtype=torch.int64), None)


class Planned(Loader):
    """Batches that the host builds in a planned time, or that a worker finishes one by one in this time."""

    def __init__(
        self, clock: VirtualClock, sizes: list[int], batch_ms: float, *, worker: bool, copy: DeviceCopy | None
    ) -> None:
        self._clock, self._sizes, self._batch_ms = clock, sizes, batch_ms
        self._worker, self._copy = worker, copy

    @property
    def num_steps(self) -> int:
        return len(self._sizes)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        batch_ns = round(self._batch_ms * MS)
        for number, size in enumerate(self._sizes, 1):
            if self._worker:
                self._clock.sleep_until(number * batch_ns)
            else:
                self._clock.spend(batch_ns)
            yield batch_of(size)

    def transfer(self, batch: Batch) -> Batch:
        return batch if self._copy is None else self._copy(batch)

    def close(self) -> None:
        pass


class Played:
    """The loop against an accelerator with steps of 18 ms: 6 forward, 10 backward, 2 optimizer."""

    def __init__(
        self,
        *,
        sizes: list[int] | None = None,
        batch_ms: float = 0.0,
        accumulate: int = 1,
        host_ms: float = 0.0,
        worker: bool = False,
        copying: NativeLoader | None = None,
        on_step: Callable[[Progress, StepMeter], None] = lambda *_: None,
        **settings: Any,
    ) -> None:
        self.accelerator = AcceleratorConfig(name="custom", **{"step_ms": 18.0, "host_ms": host_ms} | settings)
        self.clock = VirtualClock()
        self.device = Emulated(self.accelerator, BATCH_SIZE, self.clock)
        self.progress = Progress()
        step = EmulatedStep(self.device, self.accelerator, BATCH_SIZE)
        copy = None if copying is None else DeviceCopy(copying, self.device)
        loader = Planned(self.clock, sizes or 40 * [BATCH_SIZE], batch_ms, worker=worker, copy=copy)
        parts = Parts(step, loader, None, self.device)
        meter = StepMeter(self.device, clock=self.clock.now)
        observers = Observers(on_step, lambda *_: None)
        train(parts, meter, self.progress, observers, epochs=1, steps=None, accumulate=accumulate)
        self.steps: list[Step] = meter.settled
        self.requested_rate = self.accelerator.requested_rate(BATCH_SIZE, accumulate)

    @property
    def log_ms(self) -> list[tuple[str, float, float]]:
        """The device's work with its start and its end."""
        return [(busy.work, busy.start_ns / MS, busy.stop_ns / MS) for busy in self.device.timeline.log]

    @property
    def figures(self) -> dict[str, float]:
        """The metrics of the steps, without the first ones."""
        return summarize(self.steps[4:])


def test_a_step_is_divided_into_phases() -> None:
    played = Played(sizes=[BATCH_SIZE] * 2)
    assert played.log_ms == [
        ("forward", 0, 6),
        ("backward", 6, 16),
        ("optimizer", 16, 18),
        ("forward", 18, 24),
        ("backward", 24, 34),
        ("optimizer", 34, 36),
    ]
    device = played.steps[1].device
    assert device is not None
    assert (device.forward, device.backward, device.optimizer) == (6, 10, 2)


def test_configured_phases() -> None:
    played = Played(sizes=[BATCH_SIZE], phases=[0.5, 0.5, 0.0])
    assert played.log_ms == [("forward", 0, 9), ("backward", 9, 18)]


def test_a_short_batch_takes_its_share_of_the_time() -> None:
    assert Played(sizes=[BATCH_SIZE, BATCH_SIZE // 2]).log_ms[-1] == ("optimizer", 26, 27)


def test_a_speed_for_another_batch_size() -> None:
    assert Played(sizes=[BATCH_SIZE], step_ms=36.0, batch_size=2 * BATCH_SIZE).log_ms[-1][-1] == 18
    assert Played(sizes=[BATCH_SIZE], step_ms=None, samples_per_s=1000.0).log_ms[-1][-1] == 18


def test_nothing_is_learned() -> None:
    played = Played()
    assert played.progress.learning_rates == []
    assert all(step.loss != step.loss for step in played.steps)  # nan


def test_a_perfect_loader_reaches_the_requested_rate() -> None:
    played = Played()
    assert played.figures[metrics.RATE] == pytest.approx(played.requested_rate) == pytest.approx(1000)
    assert played.figures[metrics.STARVED_PCT] == 0


@pytest.mark.parametrize(("batch_ms", "host_ms"), [(12.0, 0.0), (16.0, 0.0), (36.0, 0.0), (12.0, 9.0), (36.0, 9.0)])
def test_the_rate_without_workers_is_that_of_the_formula(batch_ms: float, host_ms: float) -> None:
    """The work of a step is queued first, so the accelerator works while the host spends its time."""
    played = Played(batch_ms=batch_ms, host_ms=host_ms)
    cycle_ms = max(18.0, batch_ms + host_ms)
    assert played.figures[metrics.RATE] == pytest.approx(1e3 * BATCH_SIZE / cycle_ms)
    assert played.figures[metrics.STARVED_PCT] == pytest.approx(100 * (1 - 18 / cycle_ms))


def test_a_host_that_is_slower_than_the_accelerator_does_not_starve_it_of_data() -> None:
    played = Played(host_ms=27.0)
    assert played.figures[metrics.RATE] == pytest.approx(1e3 * BATCH_SIZE / 27)
    assert played.figures[metrics.STARVED_PCT] == 0


def test_the_host_spends_its_time_in_the_phases_while_the_accelerator_works() -> None:
    played = Played(host_ms=4.5)
    step = played.steps[0]
    assert [time_ns / MS for time_ns in step.host] == [0, 0, 1.5, 2.5, 0.5]
    assert min(played.log_ms) == ("backward", 6, 16)  # not later


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_the_optimizer_and_the_all_reduce_run_at_updates_only(accumulate: int) -> None:
    played = Played(accumulate=accumulate, allreduce_ms=3.0)
    count = {
        name: len(list(entries)) for name, entries in itertools.groupby(sorted(entry[0] for entry in played.log_ms))
    }
    assert count == {
        "forward": 40,
        "backward": 40,
        "optimizer": 40 // accumulate,
        "all-reduce": 40 // accumulate,
    }
    assert played.figures[metrics.RATE] == pytest.approx(played.requested_rate)
    names = [entry[0] for entry in played.log_ms]
    assert names[names.index("all-reduce") - 1] == "backward"
    assert names[names.index("all-reduce") + 1] == "optimizer"


def test_the_host_may_only_be_some_steps_ahead() -> None:
    """The host waits if it is 4 steps ahead, and then until it is 3 ahead: batches 5 and 6 are requested when step 2 has ended."""
    played = Played()
    requested_ns = list(itertools.accumulate((step.host_ns for step in played.steps), initial=0))
    assert [round(at / MS) for at in requested_ns[:8]] == [0, 0, 0, 0, 0, 36, 36, 72]


@pytest.mark.parametrize(
    ("rung", "worker", "batch_ms", "cycle_ms"),
    [
        ("pageable", False, 0, 20 + 10),
        ("pageable", False, 22, 22 + 10),
        ("pageable", True, 22, 20 + 10),
        ("pageable", True, 36, 36),
        ("pinned", False, 0, 20 + 5),
        ("pinned", False, 22, 22 + 5),  # the next batch is built only when the copy has ended
        ("pinned", True, 22, 20 + 5),
        ("pinned", True, 36, 36),
        ("non-blocking", False, 0, 20 + 5),
        ("non-blocking", False, 22, 20 + 5),  # the next batch is built during the copy and the step
        ("non-blocking", False, 36, 36),
        ("non-blocking", True, 22, 20 + 5),
        ("side stream", False, 0, 20),
        ("side stream", False, 22, 22),  # the copy runs during the step before
        ("side stream", True, 22, 22),
        ("side stream", True, 36, 36),
    ],
)
def test_the_rungs_of_the_ladder_differ_as_the_contract_says(
    rung: str, worker: bool, batch_ms: int, cycle_ms: int
) -> None:
    """The step takes 20 ms, and a copy from pinned memory 5 ms."""
    pin_memory, non_blocking, side_stream = RUNGS[rung]
    copying = NativeLoader(pin_memory=pin_memory, non_blocking=non_blocking, side_stream=side_stream)
    copy_gb_per_s = BATCH_BYTES / (5 * MS)
    played = Played(batch_ms=batch_ms, worker=worker, copying=copying, step_ms=20.0, copy_gb_per_s=copy_gb_per_s)
    assert played.figures[metrics.RATE] == pytest.approx(1e3 * BATCH_SIZE / cycle_ms)
    assert played.figures[metrics.STARVED_PCT] == pytest.approx(100 * (1 - 20 / cycle_ms))

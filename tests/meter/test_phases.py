"""The step meter on a fake clock: every nanosecond is accounted for exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from loaderlab.device.clock import RING, EventRing
from loaderlab.device.cpu import Cpu
from loaderlab.device.cuda import Cuda
from loaderlab.meter.phases import StepMeter, own_cost_ns
from loaderlab.meter.summary import between_epochs_ms, measured, summarize

MS = 1_000_000


class Clock:
    """A clock in nanoseconds that advances only by `pass_ms`."""

    def __init__(self) -> None:
        self.now = 7 * MS

    def __call__(self) -> int:
        return self.now

    def pass_ms(self, ms: float) -> None:
        self.now += int(ms * MS)


def play(epochs: Sequence[Sequence[tuple[float, ...]]], end_ms: float = 0.0, between_ms: float = 0.0) -> StepMeter:
    """Epochs of steps, each (wait, transfer, forward, backward, optimizer, other) in ms."""
    clock = Clock()
    meter = StepMeter(Cpu(), clock)
    for epoch, steps in enumerate(epochs):
        meter.begin_epoch(epoch)
        for index, (*phases, other) in enumerate(steps):
            meter.next_step()
            for position, phase in enumerate(phases):
                clock.pass_ms(phase)
                if position < 4:
                    meter.mark()
            meter.end_step(8, torch.tensor(float(index)))
            clock.pass_ms(other)
        meter.next_step()
        clock.pass_ms(end_ms)
        meter.end_epoch()
        clock.pass_ms(between_ms)
    return meter


def test_phases_are_exact_and_add_up() -> None:
    meter = play([[(5, 1, 2, 3, 1, 0.5), (2, 1, 2, 3, 1, 1.5)]])
    assert meter.steps[0].host == (5 * MS, MS, 2 * MS, 3 * MS, MS)
    assert [step.other / MS for step in meter.steps] == [0.5, 1.5]
    assert meter.steps[1].host_ns == int(10.5 * MS)
    assert [step.loss for step in meter.steps] == [0.0, 1.0]


def test_a_planted_wait_is_read_exactly() -> None:
    steps = [(0, 0, 4, 4, 2, 0)] * 9 + [(10, 0, 4, 4, 2, 0)]  # a stall every tenth step: 10 of 110 ms
    meter = play([[(99, 0, 9, 9, 9, 0)], steps * 3])
    figures = summarize(measured(meter.steps, 1))
    window = steps * 3
    total = sum(map(sum, window[1:]))
    assert math.isclose(figures["starvation/wait_pct"], 100 * 30 / total)
    assert math.isclose(figures["starvation/starved_pct"], 100 * 30 / total)
    assert math.isclose(figures["rate/samples_per_s"], 8 * 29 / total * 1e3)
    assert figures["time/step_max_ms"] == 20
    assert figures["time/wait_ms"] == pytest.approx(30 / 29)


def test_delivery_counts_as_starved_and_not_as_waiting() -> None:
    figures = summarize(play([[(1, 3, 3, 2, 1, 0)] * 4]).steps)
    assert figures["starvation/wait_pct"] == pytest.approx(10)
    assert figures["starvation/starved_pct"] == pytest.approx(40)


def test_parts_add_up_to_the_step() -> None:
    figures = summarize(play([[(1, 2, 3, 4, 5, 6), (6, 5, 4, 3, 2, 1)]]).steps)
    parts = sum(
        figures[f"time/{name}_ms"] for name in ("wait", "transfer", "forward", "backward", "optimizer", "other")
    )
    assert parts == pytest.approx(figures["time/step_ms"]) == pytest.approx(21)


def test_warm_up_and_first_steps_of_epochs_are_left_out() -> None:
    meter = play([[(50, 0, 1, 1, 1, 0)] * 3, [(40, 0, 1, 1, 1, 0)] + [(0, 0, 1, 1, 1, 0)] * 2])
    assert [step.step for step in measured(meter.steps, 2)] == [2, 4, 5]
    assert [step.step for step in measured(meter.steps, 0)] == [1, 2, 4, 5]


def test_time_between_epochs_leaves_evaluation_out() -> None:
    meter = play([[(9, 0, 1, 1, 1, 0)] * 2] * 3, end_ms=4, between_ms=1000)
    assert between_epochs_ms(meter.steps, meter.epoch_ends_ns) == pytest.approx(4 + 9)
    assert between_epochs_ms(play([[(9, 0, 1, 1, 1, 0)]]).steps, [1]) is None
    assert meter.epochs_s == pytest.approx(3 * (2 * 12 + 4) / 1e3)


def test_without_steps_there_are_no_metrics() -> None:
    assert summarize([]) == {}


def test_own_cost_is_small_and_above_zero() -> None:
    assert 0 < own_cost_ns(Cpu()) < 1e6


@pytest.mark.gpu
def test_device_times_of_a_known_sleep() -> None:
    """The same on CUDA: host waits that overlap the device's work are not starvation, the others are."""
    import time

    device = Cuda()
    meter = StepMeter(device)
    cycles = 2_000_000
    warmed = time.monotonic()
    while time.monotonic() < warmed + 0.5:  # an idle GPU needs time to raise its clock
        torch.cuda._sleep(cycles)
        torch.cuda.synchronize()
    meter.begin_epoch(0)
    for step in range(RING + 20):
        meter.next_step()
        time.sleep(0.004 if step >= 40 else 0.0)
        meter.mark()
        meter.mark()
        torch.cuda._sleep(cycles)
        meter.mark()
        meter.mark()
        meter.end_step(1, torch.ones((), device=device.torch_device))
    meter.next_step()
    meter.end_epoch()
    assert all(step.device is not None and step.loss == 1 for step in meter.steps)
    busy = summarize(meter.steps[5:40])
    starved = summarize(meter.steps[60:])
    assert busy["starvation/starved_pct"] < 3
    expected = 100 * (4.1 - busy["time/forward_ms"]) / max(4.1, busy["time/forward_ms"])
    assert starved["starvation/starved_pct"] == pytest.approx(max(0.0, expected), abs=8)


@pytest.mark.gpu
def test_the_ring_returns_every_step_once_in_order() -> None:
    ring = EventRing(Cuda())
    for length in (3, RING - 1, RING, 3 * RING + 5):
        ring.begin()
        returned = []
        for step in range(length):
            ring.ask()
            for phase in range(5):
                if phase == 4:
                    ring.loss(torch.full((), float(step), device="cuda"))
                ring.mark(phase)
            if (timed := ring.end()) is not None:
                returned.append(timed)
        returned += ring.drain()
        assert [timed.loss for timed in returned] == list(range(length))
        assert all(min(timed.gap, timed.delivery, timed.forward) >= 0 for timed in returned)

"""The meter and its ring of events in cases that the planted loops leave out: far ahead, without a loss, on another stream."""

from __future__ import annotations

import pytest
import torch

from loaderlab import metrics
from loaderlab.device.clock import RING
from loaderlab.meter.phases import StepMeter
from loaderlab.meter.summary import measured, summarize
from tests.cuda_double.double import DEVICE, GPU, Double
from tests.cuda_double.intervals import length
from tests.cuda_double.patches import installed
from tests.cuda_double.scenario import Loop, double_for, play

MS = 1_000_000
PHASES_MS = (3, 5, 1)


def step(double: Double, meter: StepMeter, *, wait_ms: float = 0.0, loss: torch.Tensor | None = None) -> None:
    """One step of 9 ms; the host needs no time to launch it."""
    meter.next_step()
    double.clock.spend(round(wait_ms * MS))
    meter.mark()
    meter.mark()
    for phase_ms in PHASES_MS[:2]:
        double.work(phase_ms * MS, "step")
        meter.mark()
    double.work(PHASES_MS[2] * MS, "step")
    meter.end_step(1, loss)


def test_the_meter_does_not_wait_for_the_device(double: Double) -> None:
    meter, loss = StepMeter(GPU), torch.zeros((), device=DEVICE)
    meter.begin_epoch(0)
    for _ in range(RING - 2):
        step(double, meter, loss=loss)
    assert double.clock.now() == 0
    meter.next_step()
    meter.end_epoch()
    assert double.clock.now() == (RING - 2) * sum(PHASES_MS) * MS


def test_a_host_that_is_a_whole_ring_ahead_waits_for_the_oldest_step(double: Double) -> None:
    meter = StepMeter(GPU)
    meter.begin_epoch(0)
    for _ in range(3 * RING):
        step(double, meter)
    meter.next_step()
    meter.end_epoch()
    assert [recorded.length_ms for recorded in meter.steps] == pytest.approx([sum(PHASES_MS)] * 3 * RING)


def test_each_step_has_its_own_loss(double: Double) -> None:
    meter = StepMeter(GPU)
    meter.begin_epoch(0)
    losses = [float(number) if number % 3 else None for number in range(2 * RING + 5)]
    for loss in losses:
        step(double, meter, loss=None if loss is None else torch.full((), loss, device=DEVICE))
    meter.next_step()
    meter.end_epoch()
    assert [None if entry.loss != entry.loss else entry.loss for entry in meter.settled] == losses


def test_a_device_that_still_works_is_not_drained(double: Double) -> None:
    meter = StepMeter(GPU)
    meter.begin_epoch(0)
    for number in range(20):
        step(double, meter, wait_ms=30.0 if number % 2 else 4.0)
    meter.next_step()
    meter.end_epoch()
    assert [recorded.drained for recorded in meter.steps] == [True, *[bool(number % 2) for number in range(1, 20)]]


def test_a_copy_for_which_the_host_waits_does_not_make_the_device_drained() -> None:
    loop = Loop(lambda _: 1.0, copy_ms=1.0, copying=(False, False, False))
    with installed(double_for(loop)) as double:
        steps = play(loop, double).meter.settled
    assert [recorded.drained for recorded in steps[1:]] == [False] * (loop.steps - 1)


def test_an_epoch_ends_when_all_work_of_the_device_is_done(double: Double) -> None:
    meter = StepMeter(GPU)
    meter.begin_epoch(0)
    step(double, meter)
    with torch.cuda.stream(torch.cuda.Stream()):
        double.work(50 * MS, "other")
    meter.next_step()
    meter.end_epoch()
    assert meter.epochs_ns == [(0, 50 * MS)]


def test_readings_of_the_meter_are_not_time_of_the_loop(double: Double) -> None:
    meter = StepMeter(GPU)
    for epoch in range(2):
        meter.begin_epoch(epoch)
        for number in range(10):
            step(double, meter, wait_ms=20.0)
            if number < 2:
                with meter.aside():
                    double.clock.spend(61 * MS)
        meter.next_step()
        meter.end_epoch()
    assert meter.epochs_s == pytest.approx(2 * (10 * 20 + sum(PHASES_MS)) / 1e3)


def test_a_step_on_another_stream_than_the_default_one() -> None:
    loop = Loop(lambda index: 12.0 if index % 2 else 2.0, epochs=2)
    with installed(double_for(loop)) as double, torch.cuda.stream(torch.cuda.Stream()):
        result = play(loop, double)
    steps = result.meter.settled
    window = measured(steps, 5)
    assert summarize(window)[metrics.STARVED_PCT] == pytest.approx(result.truth(window), abs=0.1)
    for recorded in window:
        assert recorded.length_ms == pytest.approx(length(result.window([recorded])) / 1e6, abs=1e-3)
    firsts = [recorded.device for recorded in steps if recorded.position == 0]
    assert [first.gap for first in firsts if first] == pytest.approx([2.0, 2.0])


def test_an_epoch_begins_behind_the_work_that_is_already_queued_for_the_step(double: Double) -> None:
    with torch.cuda.stream(torch.cuda.Stream()):
        double.work(7 * MS, "earlier")
        meter = StepMeter(GPU)
        meter.begin_epoch(0)
        step(double, meter, wait_ms=9.0)
        meter.next_step()
        meter.end_epoch()
    (first,) = meter.settled
    assert first.device is not None
    assert first.device.gap == pytest.approx(2.0)


def test_with_sync_the_hosts_clock_has_the_devices_times(double: Double) -> None:
    meter = StepMeter(GPU, sync=True)
    meter.begin_epoch(0)
    for _ in range(3):
        step(double, meter, wait_ms=2.0)
    meter.next_step()
    meter.end_epoch()
    assert {recorded.host for recorded in meter.steps} == {tuple(MS * each for each in (2, 0, *PHASES_MS))}


@pytest.mark.parametrize(("wait_ms", "after_step_ms"), [(0.5, 20.0), (12.0, 20.0), (12.0, 0.0)])
def test_a_gap_in_which_the_host_does_other_work_is_not_starved(wait_ms: float, after_step_ms: float) -> None:
    """A user's code after the step delays the device too, but the device does not wait for data then."""
    loop = Loop(lambda _: wait_ms, host=(0.0, 0.0, 0.0))
    with installed(double_for(loop)) as double:
        result = play(loop, double, lambda _: double.clock.spend(round(after_step_ms * MS)))
    window = measured(result.meter.settled, 5)
    reported = summarize(window)
    idle_ms = wait_ms + after_step_ms - loop.step_ms
    starved_ms = wait_ms if after_step_ms else idle_ms
    assert reported[metrics.STARVED_PCT] == pytest.approx(result.truth(window), abs=0.1)
    assert reported[metrics.PHASE_MS["wait"]] == pytest.approx(starved_ms)
    assert reported[metrics.OTHER_MS] == pytest.approx(idle_ms - starved_ms)

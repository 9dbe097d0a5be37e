"""A rank's own time is its step without the time in collectives, on the host's clock and on the device's."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from loaderlab.config import AcceleratorConfig
from loaderlab.device.clock import RING, EventRing
from loaderlab.device.cpu import Cpu
from loaderlab.device.emulated import Emulated
from loaderlab.device.step_times import DeviceStep
from loaderlab.device.timeline import NS_PER_MS as MS
from loaderlab.device.timeline import VirtualClock
from loaderlab.loaders.contract import Batch
from loaderlab.meter.phases import StepMeter
from loaderlab.system.ranks import Ranks
from loaderlab.training.emulated import EmulatedStep
from loaderlab.training.rank_group import RankGroup
from tests.meter.test_phases import Clock

BATCH = Batch(torch.zeros(10, 1), torch.zeros(10, dtype=torch.int64), None)


def host_step(meter: StepMeter, clock: Clock, *, in_forward: Sequence[float], own_backward: Sequence[float]) -> None:
    """Wait 5, transfer 1, forward 4, backward 10, optimizer 2, other 1 ms; with collectives at the start of forward, each until a
    time after its start, and at the end of backward, where each call replaces the one before."""
    meter.next_step()
    for ms in (5, 1):
        clock.pass_ms(ms)
        meter.mark()
    for length, times, call in (
        (4, in_forward, meter.collective_ended),
        (10, own_backward, meter.collective_begins),
    ):
        passed = 0.0
        for at in times:
            clock.pass_ms(at - passed)
            call()
            passed = at
        clock.pass_ms(length - passed)
        meter.mark()
    clock.pass_ms(2)
    meter.end_step(8, torch.zeros(()))
    clock.pass_ms(1)


def test_collectives_on_the_clock_of_the_host() -> None:
    clock = Clock()
    meter = StepMeter(Cpu(), clock)
    meter.begin_epoch(0)
    host_step(meter, clock, in_forward=[0.5, 1.5], own_backward=[3, 7])
    host_step(meter, clock, in_forward=[], own_backward=[])  # accumulates gradients
    host_step(meter, clock, in_forward=[1], own_backward=[])
    host_step(meter, clock, in_forward=[], own_backward=[6])
    meter.next_step()
    meter.end_epoch()
    assert [step.collective_ms for step in meter.steps] == [1.5 + 3, 0, 1, 4]
    assert {step.length_ms for step in meter.steps} == {23}
    assert [step.own_ms for step in meter.steps] == [23 - 4.5, 23, 22, 19]
    assert {step.starved_ms for step in meter.steps} == {6}


def test_the_collective_of_a_dropped_step_does_not_count_in_the_next() -> None:
    """The vote that ends the epoch of an iterable dataset."""
    clock = Clock()
    meter = StepMeter(Cpu(), clock)
    for epoch in range(2):
        meter.begin_epoch(epoch)
        host_step(meter, clock, in_forward=[], own_backward=[])
        meter.next_step()
        for _ in range(2):
            clock.pass_ms(1)
            meter.mark()
        clock.pass_ms(3)
        meter.collective_ended()
        meter.collective_begins()
        meter.drop_step()
        meter.end_epoch()
    assert [step.collective_ms for step in meter.steps] == [0, 0]


def device_steps(device: Emulated, has_collective: Sequence[bool]) -> list[DeviceStep]:
    """The device's times of steps: broadcast 3 and forward 5, backward 8 and all-reduce 4, optimizer 2 ms."""
    ring, steps = EventRing(device), list[DeviceStep | None]()

    def work(ms: int) -> None:
        device.timeline.queue(device.current_stream(), ms * MS, "work")

    ring.begin()
    for collective in has_collective:
        ring.ask()
        ring.mark(0)
        ring.mark(1)
        if collective:
            work(3)
            ring.collective_ended()
        work(5)
        ring.mark(2)
        work(4)
        if collective:
            ring.collective_begins()  # of the first bucket: replaced by that of the last one
        work(4)
        if collective:
            ring.collective_begins()
            work(4)
        ring.mark(3)
        work(2)
        ring.mark(4)
        steps.append(ring.end())
    return [step for step in [*steps, *ring.drain()] if step is not None]


def emulated(**settings: float) -> tuple[Emulated, AcceleratorConfig, VirtualClock]:
    clock = VirtualClock()
    accelerator = AcceleratorConfig(name="custom", step_ms=20.0, host_ms=0.0, **settings)  # type: ignore[arg-type]
    return Emulated(accelerator, 10, clock), accelerator, clock


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_collectives_on_the_clock_of_the_device(accumulate: int) -> None:
    """Also after the ring's slots are used again: a step that accumulates gradients has no collective."""
    device, _, _ = emulated()
    has_collective = [number % accumulate == accumulate - 1 for number in range(2 * RING + 5)]
    steps = device_steps(device, has_collective)
    assert [step.collective for step in steps] == [7.0 if collective else 0.0 for collective in has_collective]
    assert {step.length - step.collective for step in steps} == {15.0}


class OtherRank(RankGroup):
    """A rank that reaches its all-reduce ``later_ms`` after this one, whose clock is ``offset_ms`` behind that of rank 0."""

    def __init__(self, later_ms: int, offset_ms: int) -> None:
        self.ranks, self.clock_offset_ns, self._later_ns = Ranks(1, 2, 1, 2, "a"), offset_ms * MS, later_ms * MS

    def largest(self, value: int) -> int:
        return value + self._later_ns


@pytest.mark.parametrize(("accumulate", "offset_ms"), [(1, 0), (2, -40)])
def test_an_emulated_step_waits_for_the_slowest_rank(accumulate: int, offset_ms: int) -> None:
    """A wait of 7 ms and an all-reduce of 4 ms are not this rank's own time, and only an update has them."""
    device, accelerator, clock = emulated(allreduce_ms=4.0)
    step = EmulatedStep(device, accelerator, 10, OtherRank(7, offset_ms))
    meter = StepMeter(device, clock.now)
    step.measured_by(meter)
    meter.begin_epoch(0)
    updates = [number % accumulate == accumulate - 1 for number in range(6)]
    for update in updates:
        meter.next_step()
        meter.mark()
        meter.mark()
        step.forward(BATCH, updates=update)
        meter.mark()
        step.backward(None, accumulate, updates=update)
        meter.mark()
        if update:
            step.update()
        step.end()
        meter.end_step(10)
    meter.end_epoch()
    own_ms = [20.0 if update else 20.0 * sum(accelerator.phases[:2]) for update in updates]
    assert [entry.collective_ms for entry in meter.settled] == [11.0 if update else 0.0 for update in updates]
    assert [entry.own_ms for entry in meter.settled] == pytest.approx(own_ms)

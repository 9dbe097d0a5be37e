"""The emulated accelerator: exact times on a virtual clock, and only its behaviour on the real one."""

from __future__ import annotations

import time

import pytest
import torch

from loaderlab.config import AcceleratorConfig, NativeLoader
from loaderlab.device.cpu import Cpu
from loaderlab.device.emulated import Emulated
from loaderlab.device.timeline import NS_PER_MS as MS
from loaderlab.device.timeline import Busy, RealClock, TimelineError, VirtualClock
from loaderlab.loaders.contract import Batch
from loaderlab.loaders.copying import DeviceCopy

INPUTS = torch.zeros(500_000 - 2)  # with the targets of BATCH: 2 MB
BATCH = Batch(INPUTS, torch.zeros(1, dtype=torch.int64), None)
GB_PER_S = 0.4  # 2 MB take 5 ms


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def device(clock: VirtualClock) -> Emulated:
    return Emulated(AcceleratorConfig(name="custom", step_ms=20, copy_gb_per_s=GB_PER_S), 32, clock)


def work(device: Emulated, duration_ms: int, name: str = "step") -> Busy:
    """Queues work on the current stream."""
    return device.timeline.queue(device.current_stream(), duration_ms * MS, name)


@pytest.mark.parametrize(
    ("pinned", "non_blocking", "copy_ms", "blocked_ms"),
    [(True, True, 5, 0), (True, False, 5, 5), (False, False, 10, 10), (False, True, 10, 10)],
)
def test_a_copy_from_pageable_memory_is_slower_and_always_blocks(
    pinned: bool, non_blocking: bool, copy_ms: int, blocked_ms: int, device: Emulated, clock: VirtualClock
) -> None:
    values = torch.zeros(500_000)
    assert device.copy(values, non_blocking=non_blocking, pinned=pinned) is values
    assert device.timeline.log == [Busy(0, "copy", 0, copy_ms * MS)]
    assert clock.now() == blocked_ms * MS


@pytest.mark.parametrize(
    ("side_stream", "copied_ms", "next_step_ms"),
    [(False, (20, 25), (25, 45)), (True, (0, 5), (20, 40))],
)
def test_a_copy_on_a_side_stream_runs_during_the_step(
    side_stream: bool, copied_ms: tuple[int, int], next_step_ms: tuple[int, int], device: Emulated, clock: VirtualClock
) -> None:
    copy = DeviceCopy(NativeLoader(pin_memory=True, non_blocking=True, side_stream=side_stream), device)
    work(device, 20)
    copy(BATCH)
    step = work(device, 20)
    copies = [busy for busy in device.timeline.log if busy.work == "copy"]
    assert (copies[0].start_ns, copies[-1].stop_ns) == tuple(at * MS for at in copied_ms)
    assert (step.start_ns, step.stop_ns) == tuple(at * MS for at in next_step_ms)
    assert clock.now() == 0  # the host did not wait


def test_a_step_waits_for_its_copy_on_the_side_stream(device: Emulated, clock: VirtualClock) -> None:
    copy = DeviceCopy(NativeLoader(pin_memory=True, non_blocking=True, side_stream=True), device)
    clock.spend(3 * MS)
    copy(BATCH)
    assert work(device, 20).start_ns == (3 + 5) * MS


def test_a_blocking_copy_waits_for_the_step_before_it(device: Emulated, clock: VirtualClock) -> None:
    work(device, 20)
    device.copy(torch.zeros(500_000), non_blocking=False, pinned=True)
    assert clock.now() == 25 * MS


def test_work_queued_in_a_stream_context_stays_on_that_stream(device: Emulated) -> None:
    side = device.side_stream()
    with device.on_stream(side):
        assert work(device, 1).stream == 1
    assert work(device, 1).stream == 0


def test_an_event_is_reached_when_its_stream_is(device: Emulated, clock: VirtualClock) -> None:
    first, second = device.event(timed=True), device.event(timed=True)
    first.record(device.current_stream())
    work(device, 20)
    second.record(device.current_stream())
    assert first.query()
    assert not second.query()
    with pytest.raises(TimelineError, match="not reached"):
        first.elapsed_time(second)
    second.synchronize()
    assert clock.now() == 20 * MS
    assert first.elapsed_time(second) == 20
    device.synchronize()
    assert clock.now() == 20 * MS


@pytest.mark.parametrize("steps_ahead", [2, 4])
def test_the_host_is_at_most_so_many_steps_ahead(steps_ahead: int, clock: VirtualClock) -> None:
    accelerator = AcceleratorConfig(name="custom", step_ms=20, steps_ahead=steps_ahead)
    device = Emulated(accelerator, 32, clock)
    for number in range(10):
        work(device, 20)
        device.timeline.end_step(device.timeline.default)
        left = number + 1 - clock.now() / (20 * MS)
        assert (
            left in ({2} if steps_ahead == 2 else {3, 4}) or number + 1 < steps_ahead
        )  # it waits for two steps at once


def test_its_name_has_its_speed_and_the_host() -> None:
    device = Emulated(AcceleratorConfig(name="custom", step_ms=20), 32)
    assert "emulated custom: 20 ms per batch of 32, 1,600 samples/s" in device.name
    assert device.kind == str(device) == "emulated"
    assert device.capabilities.emulated
    assert device.torch_device == torch.device("cpu")


def test_the_real_clock_waits_by_sleeping(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that polled would use the core that the loader needs."""
    sleeps, sleep = list[float](), time.sleep

    def noted(seconds: float) -> None:
        sleeps.append(seconds)
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", noted)
    device = Emulated(AcceleratorConfig(name="custom", step_ms=20), 32, RealClock())
    work(device, 50)
    event = device.event()
    event.record(device.current_stream())
    event.synchronize()
    assert event.query()
    assert 1 <= len(sleeps) < 50


def test_the_real_clock_spends_processor_time() -> None:
    used_ns = time.thread_time_ns()
    RealClock().spend(3 * MS)
    assert time.thread_time_ns() - used_ns >= 3 * MS


def test_free_memory_is_what_the_cgroup_allows(device: Emulated, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the CPU: a container of 4 GiB on a host of 64 GiB has 4 GiB."""
    for name in ("cpu", "emulated"):
        monkeypatch.setattr(f"loaderlab.device.{name}.available_memory", lambda: 4 * 2**30)
    assert device.free_bytes == Cpu().free_bytes == 4 * 2**30

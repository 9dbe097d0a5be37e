"""The double itself: it is as strict as the contract says, so that a mistake in the product cannot pass."""

from __future__ import annotations

import pytest
import torch

from loaderlab.device.timeline import Event, RealClock, Stream, Timeline, TimelineError, VirtualClock
from tests.cuda_double.double import DEVICE, Double
from tests.cuda_double.memory import RaceError
from tests.cuda_double.patches import installed

MS = 1_000_000


# ---- the timeline -----------------------------------------------------------------------------------------------


def test_work_of_a_stream_is_done_in_order_and_not_before_it_is_queued() -> None:
    clock = VirtualClock()
    timeline = Timeline(clock)
    assert timeline.queue(timeline.default, 5, "a").stop_ns == 5
    assert (timeline.queue(timeline.default, 3, "b").start_ns, timeline.default.busy_until_ns) == (5, 8)
    clock.sleep_until(20)
    assert timeline.queue(timeline.default, 1, "c").start_ns == 20
    other = Stream(timeline)
    assert timeline.queue(other, 100, "d").start_ns == 20
    timeline.default.wait_stream(other)
    assert timeline.queue(timeline.default, 1, "e").start_ns == 120
    assert [busy.work for busy in timeline.log] == ["a", "b", "c", "d", "e"]


def test_an_event_is_the_point_that_its_stream_reaches() -> None:
    clock = VirtualClock()
    timeline = Timeline(clock)
    start, end = Event(timeline, enable_timing=True), Event(timeline, enable_timing=True)
    start.record(timeline.default)
    timeline.queue(timeline.default, 7 * MS, "work")
    end.record(timeline.default)
    assert start.query()
    assert not end.query()
    with pytest.raises(TimelineError, match="has not reached"):
        start.elapsed_time(end)
    end.synchronize()
    assert (clock.now(), start.elapsed_time(end)) == (7 * MS, 7.0)


def test_misused_events_raise() -> None:
    timeline = Timeline(VirtualClock())
    never, timed, untimed = Event(timeline, True), Event(timeline, True), Event(timeline)
    timed.record(timeline.default)
    untimed.record(timeline.default)
    for use in (
        never.query,
        never.synchronize,
        lambda: timed.elapsed_time(never),
        lambda: Stream(timeline).wait_event(never),
    ):
        with pytest.raises(TimelineError, match="was not recorded"):
            use()
    with pytest.raises(TimelineError, match="enable_timing"):
        timed.elapsed_time(untimed)


@pytest.mark.parametrize("ahead", [2, 4])
def test_the_host_is_at_most_so_many_steps_ahead(ahead: int) -> None:
    clock = VirtualClock()
    timeline = Timeline(clock, steps_ahead=ahead)
    for step in range(20):
        timeline.queue(timeline.default, 10, "step")
        timeline.end_step(timeline.default)
        done = sum(busy.stop_ns <= clock.now() for busy in timeline.log)
        assert step + 1 - done in ({ahead} if ahead == 2 else {ahead - 1, ahead}) or step + 1 < ahead


def test_a_thread_has_its_own_present() -> None:
    from threading import Thread

    clock, seen = VirtualClock(), list[int]()
    clock.sleep_until(100)

    def work() -> None:
        clock.spend(50)
        seen.append(clock.now())

    thread = Thread(target=work)
    thread.start()
    thread.join()
    assert (seen, clock.now()) == ([150], 100)


def test_on_the_real_clock_the_host_waits() -> None:
    clock = RealClock()
    timeline = Timeline(clock)
    timeline.queue(timeline.default, 3 * MS, "work")
    began = clock.now()
    timeline.synchronize()
    clock.spend(MS)
    assert clock.now() - began >= 3 * MS
    assert timeline.default.query()


# ---- memory -----------------------------------------------------------------------------------------------------


def test_freed_memory_is_handed_out_at_once_to_the_stream_of_its_pool(double: Double) -> None:
    first = torch.empty(100, device=DEVICE)
    block = double.on_device(first)
    del first
    assert double.on_device(torch.empty(50, device=DEVICE)) is block
    kept = torch.empty(50, device=DEVICE)
    with torch.cuda.stream(torch.cuda.Stream()):
        other = torch.empty(50, device=DEVICE)  # another pool
    assert len({id(double.on_device(tensor)) for tensor in (kept, other)}) == 2


def test_memory_of_a_recorded_stream_is_kept_until_the_stream_is_done(double: Double) -> None:
    side, step = torch.cuda.Stream(), torch.cuda.current_stream()
    with torch.cuda.stream(side):
        batch = torch.ones(10, device=DEVICE)
    step.wait_stream(side)
    double.work(5 * MS, "step")
    batch.sum()
    batch.record_stream(step)
    block = double.on_device(batch)
    del batch
    with torch.cuda.stream(side):
        second = torch.empty(10, device=DEVICE)
        assert double.on_device(second) is not block
        double.clock.sleep_until(6 * MS)
        assert double.on_device(torch.empty(10, device=DEVICE)) is block


def test_reading_before_the_write_is_ordered_raises(double: Double) -> None:
    with torch.cuda.stream(torch.cuda.Stream()):
        batch = torch.ones(10, device=DEVICE)
    with pytest.raises(RaceError, match="reads memory that stream 1"):
        batch.sum()


def test_writing_before_the_read_is_ordered_raises(double: Double) -> None:
    side, step = torch.cuda.Stream(), torch.cuda.current_stream()
    with torch.cuda.stream(side):
        batch = torch.ones(10, device=DEVICE)
    step.wait_stream(side)
    batch.sum()
    del batch  # without record_stream
    with torch.cuda.stream(side), pytest.raises(RaceError, match="writes to memory that stream 0"):
        torch.ones(10, device=DEVICE)


def test_an_order_that_holds_only_by_the_times_is_not_enough(double: Double) -> None:
    """The copy is done long before it is read, but nothing makes sure of that."""
    with torch.cuda.stream(torch.cuda.Stream()):
        batch = torch.ones(10, device=DEVICE)
    double.clock.sleep_until(1000 * MS)
    with pytest.raises(RaceError):
        batch.sum()


def test_the_host_reads_pinned_memory_only_after_the_copy(double: Double) -> None:
    ring = torch.full((4,), float("nan"), pin_memory=True)
    loss = torch.ones((), device=DEVICE)
    double.work(5 * MS, "step")
    ring[1].copy_(loss, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()
    assert ring[0].item() != ring[0].item()  # another place
    with pytest.raises(RaceError, match="the host"):
        ring[1].item()
    with pytest.raises(RaceError, match="the host"):
        ring[1] = 0.0
    copied.synchronize()
    assert ring[1].item() == 1


def test_copies_take_the_time_of_their_kind() -> None:
    with installed(Double(VirtualClock(), copy_gb_per_s=1e-3)) as double:
        samples = torch.ones(250)  # 1,000 bytes: 1 ms from pinned memory
        double.work(5 * MS, "step")
        samples.to(DEVICE)
        assert double.clock.now() == 7 * MS  # behind the step, at half of the speed
        double.work(5 * MS, "step")
        pinned = samples.pin_memory()
        assert pinned.is_pinned()
        pinned.to(DEVICE)
        assert double.clock.now() == 13 * MS
        double.work(5 * MS, "step")
        on_device = pinned.to(DEVICE, non_blocking=True)
        assert double.clock.now() == 13 * MS
        assert samples.to(DEVICE, non_blocking=True).device == DEVICE  # not pinned: the host waits all the same
        assert double.clock.now() == 21 * MS
        assert on_device.cpu().tolist() == [1.0] * 250
        assert double.clock.now() == 23 * MS


def test_tensors_of_two_devices_do_not_mix(double: Double) -> None:
    model = torch.nn.Linear(3, 2).to(DEVICE)
    with pytest.raises(RuntimeError, match="same device"):
        model(torch.ones(1, 3))
    with pytest.raises(TypeError, match="can't convert cuda"):
        torch.ones(1, device=DEVICE).numpy()


def test_a_model_moves_to_the_device_and_back(double: Double) -> None:
    model = torch.nn.Linear(3, 2).to("cuda")
    inputs = torch.ones(1, 3).to(model.weight)
    assert (model.weight.device, inputs.device, model(inputs).device) == (DEVICE, DEVICE, DEVICE)
    assert model.to("cpu").weight.device.type == "cpu"


def test_a_full_device_is_out_of_memory() -> None:
    with installed(Double(VirtualClock(), capacity=1000)):
        kept = torch.zeros(200, device=DEVICE)
        with pytest.raises(torch.OutOfMemoryError):
            torch.zeros(100, device=DEVICE)
        assert torch.cuda.max_memory_allocated() == 800
        del kept
        torch.zeros(100, device=DEVICE)


def test_everything_is_restored() -> None:
    with installed(Double(VirtualClock())):
        assert torch.cuda.is_available()
    assert not torch.cuda.is_available()
    assert torch.ones(1).device.type == "cpu"

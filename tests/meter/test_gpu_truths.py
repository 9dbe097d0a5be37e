"""On a GPU: planted delays measured on its clock, and the event times compared with PyTorch's profiler."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from loaderlab.config import NativeLoader, TraceConfig
from loaderlab.device.cuda import Cuda
from loaderlab.loaders.contract import Batch
from loaderlab.loaders.copying import DeviceCopy
from loaderlab.meter.phases import StepMeter
from loaderlab.meter.profile import BEYOND, StepProfiler
from loaderlab.meter.summary import measured, summarize
from loaderlab.system.terminal import Terminal
from loaderlab.trace.read import read_trace

pytestmark = pytest.mark.gpu
STEPS = 80


def cycles_for(ms: float) -> int:
    """Number of cycles for which the device's sleep kernel takes this long, at the clock of a busy device."""
    warmed = time.monotonic()
    while time.monotonic() < warmed + 0.5:
        torch.cuda._sleep(10_000_000)
        torch.cuda.synchronize()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    torch.cuda._sleep(50_000_000)
    end.record()
    torch.cuda.synchronize()
    return int(50_000_000 * ms / start.elapsed_time(end))


def loop(meter: StepMeter, wait_s: float, work: int, *, side: int = 0, steps: int = STEPS) -> float:
    """Runs steps in which the host waits ``wait_s`` and the device works for ``work`` cycles.

    Args:
        side: cycles for which another stream prepares each batch, starting when the host has the batch.

    Returns:
        Percent of the time after the first 10 steps in which the device did no work of a step, by events of its own: the clock of
        a device that waits now and then is faster than that of a busy one.
    """
    own = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(steps)]
    device, stream = Cuda(), torch.cuda.Stream()
    loss = torch.zeros((), device=device.torch_device)
    meter.begin_epoch(0)
    for start, end in own:
        meter.next_step()
        time.sleep(wait_s)
        meter.mark()
        if side:
            with torch.cuda.stream(stream):
                torch.cuda._sleep(side)
            torch.cuda.current_stream().wait_stream(stream)
        meter.mark()
        start.record()
        torch.cuda._sleep(work)
        end.record()
        meter.mark()
        meter.mark()
        meter.end_step(1, loss)
    meter.next_step()
    meter.end_epoch()
    worked_ms: float = sum(start.elapsed_time(end) for start, end in own[10:])
    whole_ms: float = own[9][1].elapsed_time(own[-1][1])
    return 100 * (1 - worked_ms / whole_ms)


@pytest.mark.parametrize(("wait_ms", "work_ms", "planted"), [(10, 9, 10), (10, 20, 0), (20, 10, 50)])
def test_work_in_flight_is_not_starved(wait_ms: float, work_ms: float, planted: float) -> None:
    """The host waits for most of each step; the device is starved only after it has finished its work."""
    meter = StepMeter(Cuda())
    idle = loop(meter, wait_ms / 1e3, cycles_for(work_ms))
    figures = summarize(measured(meter.steps, 10))
    print(f"planted {planted} %, idle {idle:.2f} %, starved {figures['starvation/starved_pct']:.2f} %")
    assert idle == pytest.approx(planted, abs=10)
    assert figures["starvation/starved_pct"] == pytest.approx(idle, abs=1)
    if work_ms > wait_ms:
        assert figures["starvation/drained_pct"] < 10


def test_a_decode_on_a_side_stream_is_delivery() -> None:
    meter = StepMeter(Cuda())
    loop(meter, 0.010, cycles_for(5), side=cycles_for(5))
    figures = summarize(measured(meter.steps, 10))
    # of 10 ms the device waits 5 for the decode and works 5; both overlap the host's wait
    assert figures["starvation/delivery_pct"] == pytest.approx(50, abs=5)


def test_the_synchronizing_meter_agrees_with_the_events() -> None:
    shares = []
    for sync in (False, True):
        meter = StepMeter(Cuda(), sync=sync)
        loop(meter, 0.010, cycles_for(0.5))  # almost no work that could overlap
        shares.append(summarize(measured(meter.steps, 10))["starvation/starved_pct"])
    assert shares[0] == pytest.approx(shares[1], abs=3)


@pytest.mark.parametrize(("wait_ms", "work_ms"), [(10, 4), (5, 8)])
def test_event_gaps_agree_with_a_trace_of_the_same_run(wait_ms: float, work_ms: float, tmp_path: Path) -> None:
    device = Cuda()
    meter, work = StepMeter(device), cycles_for(work_ms)
    profiler = StepProfiler(tmp_path, 20, 64, device, 0)
    loss = torch.zeros((), device=device.torch_device)
    meter.begin_epoch(0)
    for _ in range(BEYOND + 40):
        meter.next_step()
        time.sleep(wait_ms / 1e3)
        meter.mark()
        meter.mark()
        torch.cuda._sleep(work)
        meter.mark()
        meter.mark()
        meter.end_step(1, loss)
        profiler.step(meter)
    meter.next_step()
    meter.end_epoch()
    profiler.close()
    reading = read_trace(TraceConfig(trace=str(profiler.path)), Terminal(Console(quiet=True)))
    recorded = [step for step in meter.steps if step.disturbed][BEYOND:]
    assert len(recorded) == len(reading.steps) == 20
    # the profiler waits for the device before the first recorded steps, so there host and device start together
    recorded, shares = recorded[3:], [share for _, share in reading.steps[3:]]
    starved = 100 * sum(step.starved_ms for step in recorded) / sum(step.length_ms for step in recorded)
    by_trace = sum((share.starved_pct or 0) * (share.step_ms or 0) for share in shares) / sum(
        share.step_ms or 0 for share in shares
    )
    assert by_trace == pytest.approx(starved, abs=2)


def test_a_copy_on_a_side_stream_hands_out_whole_batches() -> None:
    """Each batch is read at both ends of a long step, while the next one is copied and no memory is spare. A batch that is read
    too early, or whose memory is reused too early, contains another batch's number."""
    device = Cuda()
    copy, cycles = (
        DeviceCopy(NativeLoader(), device),
        cycles_for(1.0),
    )  # longer than the host needs: the device falls behind
    # 12 MiB each: such a block is a segment of its own, so the allocator can return it and never splits it
    hosts = [
        Batch(torch.full((64, 3, 256, 256), number, dtype=torch.uint8), torch.full((64,), number), None).pin_memory()
        for number in range(7)
    ]
    seen = torch.full((10_000, 4), -1, device=device.torch_device)

    def step(number: int) -> None:
        batch = copy(hosts[number % len(hosts)])
        first = batch.inputs.max().long()
        torch.cuda._sleep(cycles)
        seen[number] = torch.stack([first, batch.inputs.max().long(), batch.inputs.min().long(), batch.targets.min()])

    torch.cuda.empty_cache()
    for number in range(4):  # one step after the other: the memory of a single batch, and of the step
        step(number)
        torch.cuda.synchronize()
    total = torch.cuda.mem_get_info(device.torch_device)[1]
    limit = torch.cuda.memory_reserved(device.torch_device)
    retries = torch.cuda.memory_stats(device.torch_device)["num_alloc_retries"]
    torch.cuda.set_per_process_memory_fraction((limit + 2**20) / total)  # rounded up by less than a segment
    try:
        for number in range(len(seen)):
            step(number)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.cuda.memory_reserved(device.torch_device) <= limit
    assert torch.cuda.memory_stats(device.torch_device)["num_alloc_retries"] > retries  # the memory was short
    for number, values in enumerate(seen.tolist()):
        assert values == [number % len(hosts)] * 4

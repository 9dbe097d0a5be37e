"""Copies to the device: when the batch is there, and whether the host waits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from loaderlab import loaders
from loaderlab.config import NativeLoader, ReplayLoader, SpdlLoader
from loaderlab.device.timeline import RealClock, VirtualClock
from loaderlab.loaders.contract import Batch
from loaderlab.loaders.copying import DeviceCopy
from tests.cuda_double.dali import dali_on
from tests.cuda_double.double import GPU, Double
from tests.cuda_double.patches import installed
from tests.cuda_double.scenario import BATCH, FEATURES, Loop, double_for, play
from tests.cuda_double.test_loaders import LOADERS, PLAN, THREADED, arrays

MS = 1_000_000
COPY_MS, STEP_MS = 2.0, 10
LONG_NS = 600_000 * MS  # longer than a test


@pytest.mark.parametrize(
    ("copying", "host_ms", "usable_ms"),
    [
        ((False, False, False), 14.0, 14.0),  # behind the step, at half of the speed
        ((True, False, False), 12.0, 12.0),
        ((True, True, False), 0.0, 12.0),
        ((True, True, True), 0.0, 10.0),  # at the same time as the step
    ],
)
def test_each_kind_of_copy_takes_its_time(copying: tuple[bool, bool, bool], host_ms: float, usable_ms: float) -> None:
    pin_memory, non_blocking, side_stream = copying
    with installed(double_for(Loop(lambda _: 0.0, copy_ms=COPY_MS))) as double:
        copy = DeviceCopy(NativeLoader(pin_memory=pin_memory, non_blocking=non_blocking, side_stream=side_stream), GPU)
        batch = Batch(torch.zeros(BATCH, FEATURES), torch.zeros(BATCH, dtype=torch.int64), None)
        double.work(STEP_MS * MS, "step")
        copy(batch.pin_memory() if copy.pins else batch)
        assert double.clock.now() == pytest.approx(host_ms * MS, abs=2)
        assert double.default_stream.queue.busy_until_ns == pytest.approx(usable_ms * MS, abs=2)


@pytest.mark.parametrize("copying", [(True, True, False), (True, True, True)])
def test_a_step_on_another_stream_waits_for_its_copies(copying: tuple[bool, bool, bool]) -> None:
    loop = Loop(lambda _: 1.0, copy_ms=12.0, copying=copying)
    with installed(double_for(loop)) as double, torch.cuda.stream(torch.cuda.Stream()):
        losses = [step.loss for step in play(loop, double).meter.settled]
    assert np.isfinite(losses).all()


PINNED = {name: config for name, config in LOADERS.items() if name != "native, pageable"}
PINNED["spdl, step's stream"] = SpdlLoader(num_threads=1, side_stream=False)
MOVING = (*THREADED, "spdl, step's stream")  # loaders whose threads and processes need a clock that moves


class ImpatientClock(RealClock):
    """A real clock on which a long wait is an error."""

    def sleep_until(self, at_ns: int) -> None:
        assert at_ns - self.now() < LONG_NS, "the host waits for the device"
        super().sleep_until(at_ns)


@pytest.mark.parametrize("name", PINNED)
def test_the_host_does_not_wait_for_the_device_to_transfer_a_batch(name: str) -> None:
    with installed(Double(ImpatientClock() if name in MOVING else VirtualClock())) as double, dali_on(double):
        loader = loaders.build(PINNED[name], arrays(), PLAN, GPU)
        batches = iter(loader.epoch(0))
        double.work(2 * LONG_NS, "step")
        for _ in range(3):
            loader.transfer(next(batches))
            assert not double.default_stream.query()
        loader.close()


def test_a_ceiling_begins_when_its_batches_are_on_the_device() -> None:
    with installed(Double(VirtualClock(), copy_gb_per_s=1e-3)) as double:
        loaders.build(ReplayLoader(num_batches=2), arrays(), PLAN, GPU)
        assert all(busy.stop_ns <= double.clock.now() for busy in double.timeline.log)


@pytest.mark.parametrize("other_stream", [False, True])
def test_the_memory_of_dali_is_released_after_the_copy(double: Double, other_stream: bool) -> None:
    with dali_on(double), torch.cuda.stream(torch.cuda.Stream() if other_stream else None):
        loader = loaders.build(LOADERS["dali"], arrays(), PLAN, GPU)
        batches = loader.epoch(0)
        batch = next(batches)
        double.work(STEP_MS * MS, "step")
        loader.transfer(batch)
        began_ns = double.clock.now()
        loader.close()
        assert double.clock.now() - began_ns == STEP_MS * MS

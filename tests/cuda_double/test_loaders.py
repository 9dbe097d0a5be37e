"""Every loader on the double: whole batches whatever the host frees, and no work of the device inside `next`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from loaderlab import loaders, metrics
from loaderlab.config import (
    DaliLoader,
    LoaderConfig,
    NativeLoader,
    ReplayLoader,
    ResidentLoader,
    SpdlLoader,
)
from loaderlab.data.spec import Split
from loaderlab.device.cpu import Cpu
from loaderlab.device.timeline import RealClock, VirtualClock
from loaderlab.diagnosis.figures import NO_PROBES, evidence_of
from loaderlab.diagnosis.verdict import judge
from loaderlab.loaders.contract import EpochPlan, Loader
from loaderlab.meter.phases import StepMeter
from loaderlab.meter.summary import measured, summarize
from tests import simulated
from tests.cuda_double.dali import dali_on
from tests.cuda_double.double import DEVICE, GPU, Double
from tests.cuda_double.patches import installed
from tests.loaders.test_contract import arrays_split

MS = 1_000_000
PLAN = EpochPlan(40, 4, shuffle=True, drop_last=False, seed=3)
LOADERS: dict[str, LoaderConfig] = {
    "native": NativeLoader(num_workers=0),
    "native, workers": NativeLoader(num_workers=2),
    "native, pageable": NativeLoader(num_workers=0, pin_memory=False),
    "native, step's stream": NativeLoader(num_workers=0, side_stream=False),
    "spdl": SpdlLoader(num_threads=1),
    "resident": ResidentLoader(),
    "replay": ReplayLoader(num_batches=2),
    "dali": DaliLoader(num_threads=1),
}
ON_DEVICE = {"resident": ResidentLoader(), "dali": DaliLoader(num_threads=1)}


def arrays(num_samples: int = 40) -> Split:
    return arrays_split(Path(), num_samples=num_samples)


THREADED = ("native, workers", "spdl")  # their threads and processes need a clock that moves


@pytest.fixture(params=LOADERS)
def double(request: pytest.FixtureRequest) -> Iterator[Double]:
    with installed(Double(RealClock() if request.param in THREADED else VirtualClock())) as double:
        yield double


@pytest.fixture
def loader(request: pytest.FixtureRequest, double: Double) -> Iterator[Loader]:
    name = request.node.callspec.params["double"]
    with dali_on(double):
        built = loaders.build(LOADERS[name], arrays(), PLAN, GPU)
        yield built
        built.close()


def test_the_host_may_free_a_batch_before_the_device_has_read_it(loader: Loader, double: Double) -> None:
    reference = loaders.build(NativeLoader(num_workers=0), arrays(), PLAN, Cpu())
    served: list[torch.Tensor] = []
    for epoch in (0, 1):
        for batch in loader.epoch(epoch):
            moved = loader.transfer(batch)
            assert (moved.inputs.device, moved.targets.device) == (DEVICE, DEVICE)
            double.work(5 * MS, "step")
            served.append(torch.stack([moved.inputs.float().mean(), moved.targets.float().mean()]))
            del batch, moved
    expected = [
        torch.stack([batch.inputs.float().mean(), batch.targets.float().mean()])
        for epoch in (0, 1)
        for batch in reference.epoch(epoch)
    ]
    if not loader.capabilities.loads_nothing:
        assert (torch.stack(served).cpu() - torch.stack(expected)).abs().max() < 0.5


def test_no_work_on_the_steps_stream_inside_next(loader: Loader, double: Double) -> None:
    double.cost = lambda name: (0, 1000)  # so that every kernel is in the log
    batches = iter(loader.epoch(0))
    while True:
        num_logged = len(double.timeline.log)
        batch = next(batches, None)
        assert not [busy for busy in double.timeline.log[num_logged:] if busy.stream == 0]
        if batch is None:
            return
        loader.transfer(batch)


@pytest.mark.parametrize("name", ON_DEVICE)
def test_a_loaders_work_on_the_device_is_not_a_wait_of_the_host(name: str) -> None:
    """A device that is always busy, with 8 ms of each step and about 2 ms of the loader's own work, never waits."""
    kernels = {"resident": ("baddbmm", 1.0), "dali": ("clone", 1.0)}  # two of each for a batch
    with installed(Double(VirtualClock())) as double, dali_on(double):
        kernel, each_ms = kernels[name]
        double.cost = lambda called: (0, round(each_ms * MS) if called == kernel else 0)
        loader = loaders.build(ON_DEVICE[name], arrays(160), EpochPlan(160, 4, True, False), GPU)
        meter = StepMeter(GPU)
        meter.begin_epoch(0)
        batches = iter(loader.epoch(0))
        while True:
            meter.next_step()
            double.clock.spend(MS // 2)
            if (batch := next(batches, None)) is None:
                break
            meter.mark()
            loader.transfer(batch)
            meter.mark()
            for phase_ms in (3, 4):
                double.work(phase_ms * MS, "step")
                meter.mark()
            double.work(1 * MS, "step")
            meter.end_step(4)
            double.timeline.end_step(double.default_stream.queue)
        meter.end_epoch()
        loader.close()
    window = measured(meter.settled, 5)
    reported = summarize(window)
    assert reported[metrics.PHASE_MS["wait"]] == pytest.approx(0.0, abs=0.01)
    assert reported[metrics.PHASE_MS["transfer"]] == pytest.approx(2.0, abs=0.01)
    assert reported[metrics.STEP_MS] == pytest.approx(10.0, abs=0.01)
    setup = simulated.setup(simulated.Loop(lambda _: 0.0), device=simulated.CUDA)
    evidence = evidence_of(simulated.record(meter, 5, 1), NO_PROBES)
    verdict = judge(evidence, replace(setup, loader=loader.capabilities))
    assert verdict.bottleneck == "device decode/transform"
    assert "in which the device prepared the batch" in verdict.because

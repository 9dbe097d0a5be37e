"""Kernels are loaded before the training, by a step whose effects are discarded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

from loaderlab import data
from loaderlab.config import PrecisionConfig, SgdOptimizer, VectorsData
from loaderlab.meter import resources
from loaderlab.meter.peaks import PeakMemory
from loaderlab.runs import measured_loop
from loaderlab.runs.job import Job
from loaderlab.runs.run import run
from loaderlab.system.terminal import Terminal
from loaderlab.training import optimizers
from loaderlab.training.first_step import load_kernels
from loaderlab.training.loop import Parts
from loaderlab.training.precision import Precision
from loaderlab.training.step import ModelStep
from tests.cuda_double.double import DEVICE, GPU, Double
from tests.cuda_double.scenario import Loop, PlannedLoader
from tests.parts import model_step

MS = 1_000_000
LOAD_NS = 200 * MS


def lazily_loaded() -> Callable[[str], tuple[int, int]]:
    """The first launch of each kernel takes the host 200 ms; each takes the device 0.01 ms."""
    loaded: set[str] = set()

    def cost(name: str) -> tuple[int, int]:
        host_ns = MS // 1000 if name in loaded else LOAD_NS
        loaded.add(name)
        return host_ns, MS // 100

    return cost


def normed_parts(double: Double, precision: str) -> Parts:
    torch.manual_seed(0)
    layers = (torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5), torch.nn.Dropout(0.5), torch.nn.Linear(5, 3))
    model = torch.nn.Sequential(*layers).to(DEVICE)
    optimizer, schedule = optimizers.build(SgdOptimizer(momentum=0.9), model, 10)
    loader = PlannedLoader(Loop(lambda _: 1.0), double)
    return Parts(
        ModelStep(model, optimizer, schedule, Precision(PrecisionConfig(name=precision), GPU)), loader, None, GPU
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_it_changes_nothing_but_loads_every_kernel(double: Double, precision: str) -> None:
    spec = data.build(VectorsData(num_samples=20, num_features=6, num_classes=3), lambda *_: None)
    parts = normed_parts(double, precision)
    state = {name: value.cpu() for name, value in model_step(parts).model.state_dict().items()}
    scale, rate = model_step(parts).precision.scaler.get_scale(), model_step(parts).schedule.get_last_lr()
    drawn = torch.get_rng_state()
    double.cost = lazily_loaded()
    load_kernels(model_step(parts), spec, 4, GPU)
    assert double.clock.now() > 5 * LOAD_NS
    assert all(torch.equal(value.cpu(), state[name]) for name, value in model_step(parts).model.state_dict().items())
    assert all(parameter.grad is None for parameter in model_step(parts).model.parameters())
    assert model_step(parts).optimizer.state_dict()["state"] == {}
    assert (model_step(parts).precision.scaler.get_scale(), model_step(parts).schedule.get_last_lr()) == (scale, rate)
    assert torch.equal(torch.get_rng_state(), drawn)
    before_ns = double.clock.now()
    load_kernels(model_step(parts), spec, 4, GPU)
    assert double.clock.now() - before_ns < LOAD_NS


def test_loading_is_not_part_of_the_training_time(
    double: Double, make_config: Callable[..., object], terminal: Terminal
) -> None:
    """Nor are the meter's own readings of counters and memory: all of them take time here, and no step does."""
    double.cost = lazily_loaded()

    def slow_reading() -> dict[str, float]:
        double.clock.spend(300 * MS)
        return {"cpu_s": 0.0}

    def slow_memory() -> dict[int, float]:
        double.clock.spend(61 * MS)
        return {1: 1.0}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resources, "counters", slow_reading)
        patch.setattr(measured_loop, "PeakMemory", partial(PeakMemory, host=slow_memory))
        config = make_config(
            "device=cuda", "loader.num_workers=0", "steps=8", "evaluate=false", "measure.device_samples=false"
        )
        figures = run(config, Job("run", "run"), terminal).figures  # type: ignore[arg-type]
    assert figures["time/train_s"] < 0.05
    assert figures["memory/host_peak_mib"] == 1.0
    assert np.isfinite(figures["train/loss"])

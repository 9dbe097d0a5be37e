"""A planted case of the tuner as loadtune's workload. The step sleeps as long as the accelerator needs; loadtune waits for each step
on a GPU too."""

from __future__ import annotations

import os
from typing import Any

import torch
from loadtune import Workload

from benchmarks.harness.tuner_cases import BATCH, BY_NAME, STEP_MS
from benchmarks.harness.tuner_data import CLOCK, PlantedBatches, PlantedModel, sleep_ms, spend_ms

CASE = BY_NAME[os.environ["LOADERLAB_TUNER_CASE"]]


def get_workload() -> Workload:
    """The workload that loadtune tunes."""
    return Workload(
        name=CASE.name,
        make_dataset=lambda: PlantedBatches(BATCH, **CASE.load),
        make_model=lambda: PlantedModel(0.0 if CASE.is_emulated else STEP_MS),
        train_step=emulated_step if CASE.is_emulated else computed_step,
        make_optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.01),
        default_batch_size=BATCH,
    )


def emulated_step(model: Any, optimizer: Any, batch: Any, device: Any) -> float:
    """The host queues the step, and the accelerator takes its time from the beginning."""
    began_ns = CLOCK.now()
    spend_ms(CASE.host_ms)
    sleep_ms(STEP_MS - (CLOCK.now() - began_ns) / 1e6)
    return 0.0


def computed_step(model: Any, optimizer: Any, batch: Any, device: Any) -> torch.Tensor:
    """The step of a small model that uses a core."""
    inputs, targets = batch
    loss: torch.Tensor = torch.nn.functional.cross_entropy(model(inputs), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss

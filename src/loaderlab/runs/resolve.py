"""Resolves a run's ``auto`` settings: torch's threads and the warm-up steps."""

from __future__ import annotations

from dataclasses import dataclass

from loaderlab.config import AUTO, TrainConfig
from loaderlab.device.capabilities import DeviceCapabilities
from loaderlab.loaders.capabilities import LoaderCapabilities
from loaderlab.system.machine import rank_cores

AUTO_WARMUP_STEPS = 5


@dataclass(frozen=True)
class RunSettings:
    """The effective settings of a run.

    Attributes:
        torch_threads: None keeps torch's default.
        warmup_steps: the steps before the measured window.
        threads_by_cores: whether the number of torch's threads follows from the cores that the loader leaves free.
    """

    torch_threads: int | None
    warmup_steps: int
    threads_by_cores: bool


def resolve_run(config: TrainConfig, device: DeviceCapabilities, loader: LoaderCapabilities) -> RunSettings:
    """The effective settings of a run.

    A step on the host's cores gets the cores that the loader leaves free. The window opens after the batches that the loader
    had prepared before the loop are used up.
    """
    threads: int | None = None
    if config.torch_threads != AUTO:
        threads = int(config.torch_threads)
    elif device.emulated:
        threads = 1  # torch has nothing to compute in the training process
    elif device.uses_host_cores:
        threads = max(1, rank_cores() - loader.busy_cores)
    warmup = config.measure.warmup_steps
    auto_warmup = max(AUTO_WARMUP_STEPS, loader.lookahead)
    return RunSettings(
        torch_threads=threads,
        warmup_steps=auto_warmup if warmup == AUTO else int(warmup),
        threads_by_cores=config.torch_threads == AUTO and device.uses_host_cores,
    )

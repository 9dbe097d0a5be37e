"""Settings of what is measured, where it is recorded, and when it is saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from loaderlab.config.base import AUTO, refuse, setting


@dataclass
class MeasureConfig:
    warmup_steps: Any = setting(
        AUTO,
        kind=int,
        doc="steps before the measured window opens; auto: 5, or the loader's work-ahead if that is more",
        at_least=0,
    )
    sync: bool = setting(False, "wait for the GPU at the end of every phase: slower, to check the event clock against")
    ceiling: bool = setting(True, "after training: the same step on batches that are on the device already")
    loader_alone: bool = setting(True, "after training: the loader with nobody training")
    contention: Any = setting(
        AUTO,
        kind=bool,
        doc="after training: the ceiling again, with the loader working beside it; auto: with the ceiling",
    )
    cold: bool = setting(False, "after training: an epoch's start with the files out of the kernel's cache, and again")
    probe_s: float = setting(2.0, "seconds that each of these takes; up to three times that for long steps", at_least=0)
    device_samples: bool = setting(True, "GPU utilisation, power and clocks by NVML, from a process beside the run")
    parity: bool = setting(
        False, "before training: hold the loader against the reference, and train only if it does the same work"
    )
    parity_samples: int | None = setting(256, "samples that are compared for that; null: all", at_least=1)
    profile: bool = setting(False, "record a trace of a few steps with PyTorch's profiler; they are not measured")
    profile_steps: int = setting(10, "profile: steps to record, fewer where the trace would be too large", at_least=1)
    profile_mib: int = setting(64, "profile: size of the compressed trace at most, MiB", at_least=1)

    def __post_init__(self) -> None:
        if self.contention is True and not self.ceiling:
            raise refuse(
                "measure.contention",
                "true",
                "is the ceiling with the loader beside it, and measure.ceiling=false",
                "measure.contention=auto",
            )
        if self.cold and not self.ceiling:
            raise refuse(
                "measure.cold", "true", "is held against the ceiling, and measure.ceiling=false", "measure.ceiling=true"
            )


@dataclass
class TrackingConfig:
    uri: str = setting(AUTO, "MLflow store: auto for mlruns/mlflow.db of this project, else sqlite:///… or http://…")
    experiment: str = setting("loaderlab", "MLflow experiment")
    log_every: int = setting(10, "steps whose mean loss makes one point of train/loss", at_least=1)


@dataclass
class CheckpointConfig:
    every_minutes: float | None = setting(
        5.0,
        "a checkpoint at the first end of an epoch this long after the last; 0: every epoch; null: never",
        at_least=0,
    )
    keep: bool = setting(False, "keep the checkpoint of a run that finished")
    dir: str = setting("outputs", "folder under which each run keeps its checkpoint")

"""Settings of the measurement, the tracking store and the checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from loaderlab.config.base import AUTO, refuse, setting

LONGEST_PROFILE_S = 60  # of the lines of a worker


@dataclass
class MeasureConfig:
    """What is measured during and after training."""

    warmup_steps: Any = setting(
        AUTO,
        kind=int,
        doc="steps before the measured window starts; auto: 5, or the loader's lookahead if that is more",
        at_least=0,
    )
    seconds: float | None = setting(
        None,
        "end the run when its measured window has this many seconds and at least 15 steps; it replaces epochs and steps; null: the "
        "whole run",
        example=3,
    )
    epoch_steps: int | None = setting(
        None,
        "largest number of training steps in an epoch, so that a short run contains the end of one; null: all batches",
        at_least=1,
        example=50,
    )
    sync: bool = setting(False, "wait for the GPU after every phase: slower; to validate the event timing")
    ceiling: bool = setting(True, "after training: measure the step on batches that are already on the device")
    loader_alone: bool = setting(True, "after training: measure the loader without training")
    contention: Any = setting(
        AUTO,
        kind=bool,
        doc="after training: measure the ceiling again while the loader runs too; auto: if ceiling is on",
    )
    cold: bool = setting(
        False, "after training: measure the start of an epoch with its files out of the page cache, and then in it"
    )
    probe_s: float = setting(
        2.0, "seconds of each of these probes; up to three times as long for long steps", at_least=0
    )
    device_samples: bool = setting(True, "sample GPU utilization, power and clocks with NVML, in a separate process")
    parity: bool = setting(
        False, "before training: check that the loader does the same work as the reference; train only if it does"
    )
    parity_samples: int | None = setting(256, "number of samples of that check; null: all", at_least=1)
    profile: bool = setting(False, "record a trace of a few steps with PyTorch's profiler; these are not measured")
    profile_steps: int = setting(10, "profile: steps to record; fewer if the trace would be too large", at_least=1)
    profile_mib: int = setting(64, "profile: maximum size of the compressed trace, MiB", at_least=1)
    workers: bool = setting(
        False, "profile the lines of one worker, or of this process with 0 workers; the profiled steps are not measured"
    )
    workers_s: float = setting(
        5.0, "workers: longest duration of that profile, s; it ends after half of the run at the latest", at_least=0.5
    )

    def __post_init__(self) -> None:
        if self.seconds is not None and not self.seconds > 0:
            raise refuse("measure.seconds", self.seconds, "must be above 0, or null", "measure.seconds=3")
        if self.contention is True and not self.ceiling:
            raise refuse(
                "measure.contention",
                "true",
                "needs the ceiling, and measure.ceiling=false",
                "measure.contention=auto",
            )
        if self.workers_s > LONGEST_PROFILE_S:
            raise refuse(
                "measure.workers_s",
                f"{self.workers_s:g}",
                f"must be at most {LONGEST_PROFILE_S}",
                "measure.workers_s=5",
            )
        if self.workers and self.profile:
            raise refuse(
                "measure.workers",
                "true",
                "with measure.profile=true, each profiler would record the other one's cost",
                "measure.profile=false",
                is_example=False,
            )
        if self.cold and not self.ceiling:
            raise refuse(
                "measure.cold",
                "true",
                "is compared with the ceiling, and measure.ceiling=false",
                "measure.ceiling=true",
            )


@dataclass
class TrackingConfig:
    """The MLflow store of the runs."""

    uri: str = setting(AUTO, "MLflow store: auto (mlruns/mlflow.db of this project), sqlite:///… or http://…")
    experiment: str = setting("loaderlab", "MLflow experiment")
    log_every: int = setting(10, "number of steps per point of train/loss, which is their mean loss", at_least=1)


@dataclass
class CheckpointConfig:
    """When and where a run is saved."""

    every_minutes: float | None = setting(
        5.0,
        "save at the end of an epoch if the last checkpoint is at least this old; 0: after every epoch; null: never",
        at_least=0,
    )
    keep: bool = setting(False, "keep the checkpoint of a finished run")
    dir: str = setting("outputs", "folder for the checkpoints of all runs")

"""Settings of what is measured, where it is recorded, and when it is saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from loaderlab.config.base import AUTO, setting


@dataclass
class MeasureConfig:
    warmup_steps: Any = setting(
        AUTO,
        kind=int,
        doc="steps before the measured window opens; auto: 5, or the loader's work-ahead if that is more",
        at_least=0,
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

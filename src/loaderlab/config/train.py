"""One run: what it is composed of, and what contradicts what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from loaderlab.config.base import AUTO, LARGEST_SEED, MISSING, check_bounds, refuse, setting
from loaderlab.config.data import DataConfig
from loaderlab.config.loader import LoaderConfig
from loaderlab.config.measure import CheckpointConfig, MeasureConfig, TrackingConfig
from loaderlab.config.model import CnnModel, ModelConfig, OptimizerConfig, PrecisionConfig, TimmModel


@dataclass
class SweepConfig:
    job_minutes: float | None = setting(
        None,
        "a job that takes longer is ended, with what it measured recorded, and the next one begins; null: no limit",
    )
    parity: bool = setting(
        True, "with several loaders: check first, on a sample, that they do the same work; unlike arms stand apart"
    )

    def __post_init__(self) -> None:
        if self.job_minutes is not None and self.job_minutes <= 0:
            raise refuse("sweep.job_minutes", self.job_minutes, "must be above 0", "sweep.job_minutes=30")


@dataclass
class TrainConfig:
    """One run: what it is composed of, how long it goes, where it runs."""

    data: DataConfig = setting(MISSING, "what the samples are")
    model: ModelConfig = setting(MISSING, "what is trained")
    loader: LoaderConfig = setting(MISSING, "how samples reach the device")
    precision: PrecisionConfig = setting(MISSING, "arithmetic of the step")
    optimizer: OptimizerConfig = setting(MISSING, "how the weights are updated")
    measure: MeasureConfig = setting(MISSING, "what is measured")
    tracking: TrackingConfig = setting(MISSING, "where it is recorded")
    checkpoint: CheckpointConfig = setting(CheckpointConfig, "when a long run is saved")
    batch_size: int = setting(64, "samples a step", at_least=1)
    epochs: Any = setting(
        AUTO,
        kind=int,
        doc="passes over the training samples; auto: 20 unless steps is set",
        at_least=1,
        at_most=LARGEST_SEED,
    )
    steps: int | None = setting(None, "end after this many steps instead", at_least=1, at_most=LARGEST_SEED)
    accumulate: int = setting(1, "steps whose gradients make one update of the weights", at_least=1)
    drop_last: bool = setting(True, "leave out the last training batch of an epoch where it is short")
    evaluate: bool = setting(True, "loss and accuracy on the validation samples after each epoch")
    seed: int = setting(0, "seed of the weights, the order and the augmentations", at_least=0, at_most=LARGEST_SEED)
    repeat: int = setting(
        0, "number of the repetition; the seed in force is seed + repeat", at_least=0, at_most=LARGEST_SEED
    )
    deterministic: bool = setting(False, "deterministic algorithms only; slower, and refused where one has none")
    device: str = setting(AUTO, "auto: CUDA where there is one, else the CPU; or cpu, cuda, cuda:1")
    torch_threads: Any = setting(
        AUTO,
        kind=int,
        doc="threads of the step on a CPU; auto: the cores that the loader leaves",
        at_least=1,
        at_most=4096,
    )
    resume: str | None = setting(
        None,
        "go on from a checkpoint: latest, or the path of a checkpoint file or its folder; with -m the sweep to go on with: latest, or its run id",
    )
    sweep: SweepConfig = setting(SweepConfig, "how a sweep's jobs are run")
    study: str | None = setting(None, "the study that this is a part of; type study=… to run one")
    rung: str | None = setting(None, "the rung of the ladder that this is; type study=ladder to climb it")

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.steps is not None and self.epochs != AUTO:
            raise refuse(
                "steps",
                self.steps,
                f"and epochs={self.epochs} are two ways to end a run",
                f"steps={self.steps} epochs=auto",
            )
        if isinstance(self.model, CnnModel) and not self.data.images:
            raise refuse("model", "cnn", f"needs images, and data={self.data.name} gives vectors", "model=feedforward")
        if isinstance(self.model, TimmModel) and not self.data.images:
            raise refuse(
                "model",
                self.model.name,
                f"needs images, and data={self.data.name} gives vectors",
                "model=feedforward",
            )
        if self.model.channels_last and not self.data.images:
            raise refuse(
                "model.channels_last",
                "true",
                f"is for images, and data={self.data.name} gives vectors",
                "model.channels_last=false",
            )

    @property
    def seed_in_force(self) -> int:
        return self.seed + self.repeat

    @property
    def num_epochs(self) -> int | None:
        """Epochs to go through; None where `steps` ends the run."""
        if self.steps is not None:
            return None
        return 20 if self.epochs == AUTO else int(self.epochs)

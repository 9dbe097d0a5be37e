"""Settings of a run and of a sweep, and checks for contradictions between them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from loaderlab.config.accelerator import AcceleratorConfig
from loaderlab.config.base import AUTO, LARGEST_SEED, MISSING, check_bounds, flatten, refuse, setting
from loaderlab.config.batch_share import check_batch_share
from loaderlab.config.data import DataConfig
from loaderlab.config.emulated import check_emulated, is_unused
from loaderlab.config.gates import RunFailIfConfig
from loaderlab.config.launch import LaunchConfig, SlurmLaunch
from loaderlab.config.loader import LoaderConfig
from loaderlab.config.measure import CheckpointConfig, MeasureConfig, TrackingConfig
from loaderlab.config.model import CnnModel, ModelConfig, OptimizerConfig, PrecisionConfig, TimmModel
from loaderlab.config.slurm import SweepSlurmConfig
from loaderlab.config.task import check_task, has_own_step, has_whole_batches

TEMPLATE, SPAWN = "template", "spawn"  # how the process of a job starts
LOCAL, SLURM = "local", "slurm"  # where the jobs of a sweep run
AUTO_EPOCHS = 20
RECORDED_IF_SET = (  # the records of earlier versions have no such settings
    "measure.seconds",
    "measure.epoch_steps",
    "model.step",
    "model.evaluate",
    "data.collate",
    "data.count",
)


@dataclass
class SweepConfig:
    """How the jobs of a sweep are run."""

    job_minutes: float | None = setting(
        None,
        "time limit of a job: its results so far are recorded, and the next job starts; null: no limit",
        example=30,
    )
    parity: bool = setting(
        True,
        "with several loaders: first check on some samples that they do the same work; arms that do not are compared "
        "separately",
    )

    start: str = setting(
        TEMPLATE,
        "how the process of a job starts: forked from a template process that has imported what every job needs, or spawned, so "
        "that each job imports it again",
        choices=(TEMPLATE, SPAWN),
    )
    on: str = setting(
        LOCAL,
        "where the jobs run: local, one after the other on this machine, or slurm, each as a job of the cluster",
        choices=(LOCAL, SLURM),
    )
    jobs_at_once: int = setting(
        1, "with sweep.on=slurm: largest number of jobs that run or wait in Slurm at the same time", at_least=1
    )
    slurm: SweepSlurmConfig = setting(SweepSlurmConfig, "with sweep.on=slurm: what each job requests from Slurm")

    def __post_init__(self) -> None:
        if self.job_minutes is not None and self.job_minutes <= 0:
            raise refuse("sweep.job_minutes", self.job_minutes, "must be above 0", "sweep.job_minutes=30")
        if self.on == LOCAL and self.jobs_at_once > 1:
            raise refuse(
                "sweep.jobs_at_once",
                self.jobs_at_once,
                "jobs on one machine would slow each other down, so they run one after the other",
                "sweep.on=slurm",
                is_example=False,
            )


@dataclass
class TrainConfig:
    """One run: its parts, its length and its device."""

    data: DataConfig = setting(MISSING, "the data set")
    model: ModelConfig = setting(MISSING, "the model that is trained")
    loader: LoaderConfig = setting(MISSING, "how samples reach the device")
    precision: PrecisionConfig = setting(MISSING, "arithmetic of the training step")
    optimizer: OptimizerConfig = setting(MISSING, "how the weights are updated")
    accelerator: AcceleratorConfig = setting(AcceleratorConfig, "an emulated accelerator instead of a real step")
    launch: LaunchConfig = setting(LaunchConfig, "the ranks of the job and where they run")
    measure: MeasureConfig = setting(MISSING, "what is measured")
    tracking: TrackingConfig = setting(MISSING, "where the run is recorded")
    checkpoint: CheckpointConfig = setting(CheckpointConfig, "when a run is saved")
    batch_size: int = setting(64, "samples per step; with several ranks, of each rank", at_least=1)
    epochs: Any = setting(
        AUTO,
        kind=int,
        doc="passes over the training samples; auto: 20 unless steps is set",
        at_least=1,
        at_most=LARGEST_SEED,
    )
    steps: int | None = setting(
        None, "number of training steps; it replaces epochs", at_least=1, at_most=LARGEST_SEED, example=200
    )
    accumulate: int = setting(1, "steps per update of the weights (gradient accumulation)", at_least=1)
    drop_last: bool = setting(True, "drop the last training batch of an epoch if it is incomplete")
    evaluate: bool = setting(True, "measure loss and accuracy on the validation samples after each epoch")
    seed: int = setting(
        0, "seed of the weights, the order of samples and the augmentation", at_least=0, at_most=LARGEST_SEED
    )
    repeat: int = setting(
        0, "number of the repeat; the run's random numbers start from seed + repeat", at_least=0, at_most=LARGEST_SEED
    )
    deterministic: bool = setting(
        False, "deterministic algorithms only: slower; an operation that has none stops the run"
    )
    device: str = setting(AUTO, "auto (CUDA if available, otherwise the CPU), cpu, cuda or cuda:N")
    torch_threads: Any = setting(
        AUTO,
        kind=int,
        doc="CPU threads of the step; auto: the cores that the loader does not use",
        at_least=1,
        at_most=4096,
    )
    resume: str | None = setting(
        None,
        "continue from a checkpoint: latest, or the path of a checkpoint file or its folder; with -m continue a sweep: "
        "latest, or its run id",
    )
    sweep: SweepConfig = setting(SweepConfig, "how the jobs of a sweep are run")
    fail_if: RunFailIfConfig = setting(RunFailIfConfig, "gate for your CI")
    study: str | None = setting(None, "study of this run; type study=… to run a study")
    rung: str | None = setting(None, "rung of the ladder; type study=ladder to run all rungs")

    def __post_init__(self) -> None:
        check_bounds(self)
        if not re.fullmatch(r"auto|(cpu|cuda)(:\d+)?", self.device):
            raise refuse("device", self.device, "must be auto, cpu, cuda or cuda:N", "device=auto")
        if self.steps is not None and self.epochs != AUTO:
            raise refuse(
                "steps",
                self.steps,
                f"cannot be combined with epochs={self.epochs}",
                f"steps={self.steps} epochs=auto",
            )
        if self.measure.seconds is not None:
            self._check_seconds(self.measure.seconds)
        if self.sweep.on == SLURM and isinstance(self.launch, SlurmLaunch):
            raise refuse(
                "sweep.on",
                SLURM,
                "launch=slurm already submits each job of a sweep, one after the other",
                "sweep.on=local",
                is_example=False,
            )
        if self.launch.is_distributed and self.measure.cold:
            raise refuse(
                "measure.cold",
                "true",
                f"measures the files of one process, and launch={self.launch.name} has several ranks",
                "measure.cold=false, or launch=none",
                is_example=False,
            )
        self._check_share()
        check_task(self)
        if self.accelerator.is_emulated:
            check_emulated(self)
            return
        self._check_model()
        if self.fail_if.utilization_below is not None and not self.measure.ceiling:
            raise refuse(
                "fail_if.utilization_below",
                self.fail_if.utilization_below,
                "in a real run it is a share of the ceiling, and measure.ceiling=false",
                "measure.ceiling=true",
                is_example=False,
            )

    def _check_share(self) -> None:
        """Raises:
        UserError: a rank would have no batch. Data sets that the settings do not count are checked when the run prepares them.
        """
        if (num_samples := self.data.known_train_samples) is not None:
            num_ranks = self.launch.least_ranks
            check_batch_share(num_samples, num_ranks, self.batch_size, self.launch.name, drop_last=self.drop_last)

    def _check_seconds(self, seconds: float) -> None:
        """Raises:
        UserError: another setting ends the run, or the ranks would not end it after the same step.
        """
        ends = {"steps": self.steps, "epochs": None if self.epochs == AUTO else self.epochs, "resume": self.resume}
        for name, value in ends.items():
            if value is not None:
                null = AUTO if name == "epochs" else "null"
                raise refuse(
                    "measure.seconds",
                    f"{seconds:g}",
                    f"cannot be combined with {name}={value}, because the measured time ends the run",
                    f"measure.seconds=null, or {name}={null}",
                    is_example=False,
                )
        if self.launch.is_distributed:
            raise refuse(
                "measure.seconds",
                f"{seconds:g}",
                f"each rank of launch={self.launch.name} would end after another step",
                "steps=200 measure.seconds=null, or launch=none",
                is_example=False,
            )

    def _check_model(self) -> None:
        """Raises:
        UserError: the model needs other data.
        """
        if isinstance(self.model, CnnModel) and not self.data.images:
            raise refuse("model", "cnn", f"needs images, and data={self.data.name} has vectors", "model=feedforward")
        if isinstance(self.model, TimmModel) and not self.data.images:
            raise refuse(
                "model",
                self.model.name,
                f"needs images, and data={self.data.name} has vectors",
                "model=feedforward",
            )
        if self.model.channels_last and not self.data.images:
            raise refuse(
                "model.channels_last",
                "true",
                f"is for images, and data={self.data.name} has vectors",
                "model.channels_last=false",
            )

    @property
    def effective_seed(self) -> int:
        """The seed of this repeat."""
        return self.seed + self.repeat

    @property
    def num_epochs(self) -> int | None:
        """Number of epochs; None if `steps` or `measure.seconds` ends the run."""
        if self.steps is not None or self.measure.seconds is not None:
            return None
        return AUTO_EPOCHS if self.epochs == AUTO else int(self.epochs)

    @property
    def planned_epochs(self) -> int | None:
        """Number of epochs for which the learning rate is planned; None if `steps` ends the run."""
        return AUTO_EPOCHS if self.measure.seconds is not None else self.num_epochs

    @property
    def evaluates(self) -> bool:
        """Whether the run evaluates after each epoch. An emulated run has no model to evaluate."""
        return self.evaluate and not self.accelerator.is_emulated

    @property
    def has_own_step(self) -> bool:
        """Whether the user's own function is the step: ``model.step``."""
        return has_own_step(self)

    @property
    def has_whole_batches(self) -> bool:
        """Whether a batch is what ``data.collate`` returns for the user's items, instead of inputs and class indices."""
        return has_whole_batches(self)

    @property
    def saves_checkpoints(self) -> bool:
        """Whether the run may save checkpoints. An emulated run has no weights to save."""
        return self.checkpoint.every_minutes is not None and not self.accelerator.is_emulated

    def recorded(self) -> Iterator[tuple[str, Any]]:
        """The settings that are recorded, as (dotted name, value), without those that have no effect on this run's results.

        A real run has no ``accelerator.*`` and a run of one process no ``launch.*``, as in the records of earlier versions; an
        emulated run has no model, precision or optimizer. The gate is not part of a run's settings, and `RECORDED_IF_SET` only if they are
        set.
        """
        for name, value in flatten(self):
            unused = is_unused(name) if self.accelerator.is_emulated else name.startswith("accelerator.")
            unused |= name.startswith("launch.") and not self.launch.is_distributed
            unused |= name in RECORDED_IF_SET and value is None
            if not unused and not name.startswith("fail_if."):
                yield name, value

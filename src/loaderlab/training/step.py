"""The work of one training step: of a model, or of an emulated accelerator. The loop calls it, and measures it."""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from loaderlab.loaders.contract import Batch
from loaderlab.training.optimizers import learning_rate
from loaderlab.training.precision import Precision
from loaderlab.training.task import Classification, Task


@dataclass
class Progress:
    """The loop's state in addition to the weights. Checkpoints store a part of it, and the summary uses the rest."""

    epoch: int = 0  # finished epochs, including those before a resume
    step: int = 0  # finished steps, including those before a resume
    updates: int = 0  # updates of the weights, including those before a resume
    validation: dict[str, float] = field(default_factory=dict)  # metrics of the last evaluation
    learning_rates: list[float] = field(default_factory=list)  # one per step of this process


class CollectiveClock(Protocol):
    """The meter's methods that separate a rank's own work from collectives: see `loaderlab.meter.phases.StepMeter`."""

    def collective_ended(self) -> None:
        """The collectives at the start of forward have ended."""

    def collective_begins(self) -> None:
        """The rank's own work of backward has ended."""


class TrainingStep(abc.ABC):
    """The phases of a step that follow its transfer. All of them may return before the device has finished."""

    _clock: CollectiveClock | None = None

    def measured_by(self, clock: CollectiveClock) -> None:
        """From now on, reports its collectives to this clock."""
        self._clock = clock

    def collectives_ended(self) -> None:
        """Reports that the collectives at the start of forward have ended."""
        if self._clock is not None:
            self._clock.collective_ended()

    def collectives_begin(self) -> None:
        """Reports that its own work of backward has ended."""
        if self._clock is not None:
            self._clock.collective_begins()

    def before_evaluation(self) -> None:
        """Is called before each evaluation."""

    @property
    @abc.abstractmethod
    def learning_rate(self) -> float | None:
        """The learning rate of the next update; None if nothing is learned."""

    def begin_epoch(self) -> None:
        """Is called before each epoch."""

    @abc.abstractmethod
    def forward(self, batch: Batch, *, updates: bool = True) -> torch.Tensor | None:
        """Returns the loss (a scalar); None if nothing is computed. ``updates``: an update follows this step."""

    @abc.abstractmethod
    def backward(self, loss: torch.Tensor | None, size: int, *, updates: bool) -> None:
        """Adds to the gradients.

        Args:
            loss: what `forward` returned.
            size: steps that share the update.
            updates: an update follows this step.
        """

    @abc.abstractmethod
    def update(self) -> bool:
        """Updates the weights and the learning rate once. Returns whether they were updated."""

    @abc.abstractmethod
    def correct(self, factor: float) -> None:
        """Multiplies the gradients: fewer steps share the update than `backward` assumed."""

    def end(self) -> None:
        """Is called after the last phase of each step."""


@dataclass
class ModelStep(TrainingStep):
    """The step of a real model, which must already be on the device."""

    model: nn.Module
    optimizer: Optimizer
    schedule: LambdaLR
    precision: Precision
    task: Task = field(default_factory=Classification, kw_only=True)

    def state(self) -> dict[str, Any]:
        """The state of all parts for a checkpoint."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.precision.scaler.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores what `state` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.precision.scaler.load_state_dict(state["scaler"])

    @property
    def learning_rate(self) -> float:
        return learning_rate(self.optimizer)

    def begin_epoch(self) -> None:
        self.model.train()

    def forward(self, batch: Batch, *, updates: bool = True) -> torch.Tensor:
        with self.precision.autocast():
            return self.task.loss(self.model, batch)

    def backward(self, loss: torch.Tensor | None, size: int, *, updates: bool) -> None:
        assert loss is not None
        self.precision.scaler.scale(loss / size if size > 1 else loss).backward()

    def update(self) -> bool:
        """With fp16 the host waits for the device here, because torch's scaler must know whether a gradient overflowed. In that
        case nothing is updated."""
        scaler = self.precision.scaler
        scale = scaler.get_scale() if scaler.is_enabled() else 1.0
        scaler.step(self.optimizer)
        scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        overflowed = scaler.is_enabled() and scaler.get_scale() < scale
        if not overflowed:
            self.schedule.step()
        return not overflowed

    def correct(self, factor: float) -> None:
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)

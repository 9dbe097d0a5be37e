"""The training loop, written out: wait, transfer, forward, backward, optimizer, and an evaluation after each epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from loaderlab.config import UserError
from loaderlab.loaders.contract import Loader
from loaderlab.meter.phases import StepMeter
from loaderlab.training.batch_of_one import logits_of
from loaderlab.training.optimizers import learning_rate
from loaderlab.training.precision import Precision


@dataclass
class Progress:
    """The loop's state in addition to the weights. Checkpoints store a part of it, and the summary uses the rest."""

    epoch: int = 0  # finished epochs, including those before a resume
    step: int = 0  # finished steps, including those before a resume
    updates: int = 0  # updates of the weights, including those before a resume
    val_loss: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)  # one per step of this process


@dataclass
class Observers:
    """Functions that the loop calls after steps and epochs."""

    on_step: Callable[[Progress, StepMeter], None]
    on_epoch: Callable[[Progress, StepMeter], None]  # after the evaluation, outside the measured windows


@dataclass
class Parts:
    """The parts of a training run: model, optimizer, precision, loaders and device."""

    model: nn.Module
    optimizer: Optimizer
    schedule: LambdaLR
    precision: Precision
    loader: Loader
    val_loader: Loader | None
    device: torch.device

    def state(self) -> dict[str, Any]:
        """The state of all parts for a checkpoint."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.precision.scaler.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.precision.scaler.load_state_dict(state["scaler"])


def train(
    parts: Parts,
    meter: StepMeter,
    progress: Progress,
    observers: Observers,
    *,
    epochs: int | None,
    steps: int | None,
    accumulate: int,
) -> None:
    """Trains until ``epochs`` epochs or ``steps`` steps in total are done; one of the two is None.

    Args:
        parts: the model must already be on the device.
        meter: measures every step of this process.
        progress: the state to start from, which is updated as training proceeds.
        accumulate: steps per update, which uses their mean gradient. The last update of an epoch may have fewer.
    """
    model, optimizer = parts.model, parts.optimizer
    autocast, scaler = parts.precision.autocast, parts.precision.scaler
    per_epoch = parts.loader.num_steps if parts.loader.knows_length else None

    while (epochs is None or progress.epoch < epochs) and (steps is None or progress.step < steps):
        model.train()
        meter.begin_epoch(progress.epoch)
        batches = iter(parts.loader.epoch(progress.epoch))
        in_epoch = 0  # steps of this epoch
        group = 0  # steps since the last update
        size = accumulate  # number of steps in the current group

        while steps is None or progress.step < steps:
            meter.next_step()
            batch = next(batches, None)
            if batch is None:
                if group:  # only if the loader does not know its length: the losses were divided by too large a number
                    for parameter in model.parameters():
                        if parameter.grad is not None:
                            parameter.grad.mul_(size / group)
                    update(parts, progress)
                break
            meter.mark()  # wait

            batch = parts.loader.transfer(batch)
            meter.mark()  # transfer

            with autocast():
                loss = F.cross_entropy(logits_of(model, batch.inputs), batch.targets)
            meter.mark()  # forward

            in_epoch, group = in_epoch + 1, group + 1
            ends_epoch = in_epoch == per_epoch or progress.step + 1 == steps
            size = accumulate
            if per_epoch is not None and accumulate > 1:  # the last group of an epoch may be smaller
                size = min(accumulate, per_epoch - (in_epoch - group))
            if steps is not None:  # and so may the last group of a run
                size = min(size, steps - (progress.step + 1 - group))
            scaler.scale(loss / size if size > 1 else loss).backward()
            meter.mark()  # backward

            progress.learning_rates.append(learning_rate(optimizer))
            if group == accumulate or ends_epoch:
                update(parts, progress)
                group = 0
            meter.end_step(len(batch), loss)  # optimizer

            progress.step += 1
            observers.on_step(progress, meter)

        meter.end_epoch()  # waits for the device
        if in_epoch == 0:
            raise UserError(
                "data: there was no training batch. With drop_last=true a set needs at least batch_size samples"
            )
        progress.epoch += 1
        if parts.val_loader is not None:
            val_loss, val_accuracy = evaluate(parts, parts.val_loader)
            progress.val_loss.append(val_loss)
            progress.val_accuracy.append(val_accuracy)
        observers.on_epoch(progress, meter)


def update(parts: Parts, progress: Progress) -> None:
    """Updates the weights and the learning rate once. With fp16 the host waits for the device here, because torch's scaler must
    know whether a gradient overflowed. In that case nothing is updated."""
    scaler = parts.precision.scaler
    scale = scaler.get_scale() if scaler.is_enabled() else 1.0
    scaler.step(parts.optimizer)
    scaler.update()
    parts.optimizer.zero_grad(set_to_none=True)
    if not scaler.is_enabled() or scaler.get_scale() >= scale:
        parts.schedule.step()
        progress.updates += 1


@torch.no_grad()
def evaluate(parts: Parts, loader: Loader) -> tuple[float, float]:
    """Mean loss and accuracy (0 to 1) over all samples of a loader, including a short last batch."""
    parts.model.eval()
    loss_sum = torch.zeros((), dtype=torch.float64, device=parts.device)
    correct = torch.zeros((), dtype=torch.int64, device=parts.device)
    count = 0
    for batch in loader.epoch(0):
        batch = loader.transfer(batch)
        with parts.precision.autocast():
            logits = logits_of(parts.model, batch.inputs)
        loss_sum += F.cross_entropy(logits.float(), batch.targets, reduction="sum")
        correct += (logits.argmax(1) == batch.targets).sum()
        count += len(batch)
    if count == 0:
        raise UserError("data: there was no validation batch. Type: evaluate=false, or add validation samples")
    return loss_sum.item() / count, correct.item() / count  # waits for the device here, once

"""The training loop, written out: wait, transfer, forward, backward, optimizer, and an evaluation after each epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from loaderlab.config import UserError
from loaderlab.device.base import Device
from loaderlab.loaders.contract import Loader
from loaderlab.meter.phases import StepMeter
from loaderlab.training.rank_group import RankGroup
from loaderlab.training.step import ModelStep, Progress, TrainingStep


@dataclass
class Observers:
    """Functions that the loop calls after steps and epochs."""

    on_step: Callable[[Progress, StepMeter], None]
    on_epoch: Callable[[Progress, StepMeter], None]  # after the evaluation, outside the measured windows


@dataclass
class Parts:
    """The parts of a training run. Only a `ModelStep` can be evaluated: with another one, ``val_loader`` is None.

    ``group``: the ranks that train together; None with one process.
    """

    step: TrainingStep
    loader: Loader
    val_loader: Loader | None
    device: Device
    group: RankGroup | None = None


def train(
    parts: Parts,
    meter: StepMeter,
    progress: Progress,
    observers: Observers,
    *,
    epochs: int | None,
    steps: int | None,
    accumulate: int,
    enough: Callable[[], bool] | None = None,
) -> None:
    """Trains until ``epochs`` epochs or ``steps`` steps in total are done, or until `enough`; the others are None.

    Args:
        parts: what a step does, with its loaders.
        meter: measures every step of this process.
        progress: the state to start from, which is updated as training proceeds.
        accumulate: steps per update, which uses their mean gradient. The last update of an epoch may have fewer.
        enough: asked after each update whether to end.
    """
    work = parts.step
    per_epoch = parts.loader.num_steps if parts.loader.knows_length else None
    voting = parts.group if per_epoch is None else None  # otherwise all ranks have the same number of batches
    work.measured_by(meter)
    ended = False

    while (epochs is None or progress.epoch < epochs) and (steps is None or progress.step < steps) and not ended:
        work.begin_epoch()
        meter.begin_epoch(progress.epoch)
        batches = iter(parts.loader.epoch(progress.epoch))
        in_epoch = 0  # steps of this epoch
        group = 0  # steps since the last update
        size = accumulate  # number of steps in the current group

        while (steps is None or progress.step < steps) and not ended:
            meter.next_step()
            batch = next(batches, None)
            if batch is not None:
                meter.mark()  # wait

                batch = parts.loader.transfer(batch)
                meter.mark()  # transfer

            if voting is not None and not voting.all_true(batch is not None):
                meter.drop_step()
                batch = None  # of a rank that has more batches than another
            if batch is None:
                if group:  # only if the loader does not know its length: the losses were divided by too much
                    work.correct(size / group)
                    progress.updates += work.update()
                break
            if voting is not None:
                meter.collective_ended()

            in_epoch, group = in_epoch + 1, group + 1
            ends_epoch = in_epoch == per_epoch or progress.step + 1 == steps
            size = accumulate
            if per_epoch is not None and accumulate > 1:  # the last group of an epoch may be smaller
                size = min(accumulate, per_epoch - (in_epoch - group))
            if steps is not None:  # and so may the last group of a run
                size = min(size, steps - (progress.step + 1 - group))
            updates = group == accumulate or ends_epoch
            loss = work.forward(batch, updates=updates)
            meter.mark()  # forward

            work.backward(loss, size, updates=updates)
            meter.mark()  # backward

            if (rate := work.learning_rate) is not None:
                progress.learning_rates.append(rate)
            if updates:
                progress.updates += work.update()
                group = 0
            work.end()
            meter.end_step(len(batch), loss)  # optimizer

            progress.step += 1
            observers.on_step(progress, meter)
            ended = updates and enough is not None and enough()

        meter.end_epoch()  # waits for the device
        if in_epoch == 0:
            raise UserError(
                "data: there was no training batch. With drop_last=true a set needs at least batch_size samples"
            )
        progress.epoch += 1
        if parts.val_loader is not None:
            assert isinstance(work, ModelStep)
            progress.validation = evaluate(work, parts.val_loader, parts.device, parts.group)
        observers.on_epoch(progress, meter)


@torch.no_grad()
def evaluate(step: ModelStep, loader: Loader, device: Device, group: RankGroup | None = None) -> dict[str, float]:
    """The mean over all samples of a loader of each metric of the step's task, by its name, such as ``val/loss``.

    It includes a short last batch; with a group, it is over the samples of all ranks.
    """
    step.before_evaluation()
    step.model.eval()
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}
    for batch in loader.epoch(0):
        batch = loader.transfer(batch)
        with step.precision.autocast():
            evaluated = step.task.evaluated(step.model, batch)
        for name, value in evaluated.items():
            zero = torch.zeros((), dtype=torch.float64, device=device.torch_device)
            sums[name] = sums.get(name, zero) + value
            counts[name] = counts.get(name, 0) + len(batch)
    totals = {name: (total.item(), counts[name]) for name, total in sums.items()}  # waits for the device here
    of_ranks = [totals] if group is None else group.all_gather(totals)
    names = list(dict.fromkeys(name for own in of_ranks for name in own))
    if not names:
        raise UserError("data: there was no validation batch. Type: evaluate=false, or add validation samples")
    means = {}
    for name in names:
        own_totals = [own[name] for own in of_ranks if name in own]
        means[name] = sum(total for total, _ in own_totals) / sum(count for _, count in own_totals)
    return means

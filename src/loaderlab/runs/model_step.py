"""The model of a run with its optimizer, tried out on the first batches if the step is the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from loaderlab.config import CustomModel, TrainConfig
from loaderlab.data.spec import DataSpec
from loaderlab.device.base import Device
from loaderlab.device.random_states import random_states_kept
from loaderlab.loaders.contract import Batch, EpochPlan
from loaderlab.loaders.first_batch import first_batch
from loaderlab.runs.loader_set import validation_plan
from loaderlab.training import batch_of_one, models, optimizers
from loaderlab.training.first_step import run_evaluation, run_step
from loaderlab.training.precision import Precision
from loaderlab.training.run_length import RunLength
from loaderlab.training.step import ModelStep
from loaderlab.training.task import task_of


def first_batches(
    config: TrainConfig, spec: DataSpec, plan: EpochPlan, evaluates: bool, device: Device
) -> tuple[Batch, ...]:
    """The first training batch and the first validation batch, if a user's own functions get them; otherwise empty.

    They are built in this process, so that an error of those functions is raised before the run, and not in a worker.
    """
    if not (spec.whole_batches or config.has_own_step):
        return ()
    with random_states_kept(device.torch_device):
        batches = [first_batch(spec.train, plan, device)]
        if evaluates and spec.val is not None:
            batches.append(first_batch(spec.val, validation_plan(spec.val, config.batch_size, plan), device))
    return tuple(batches)


def model_step(
    config: TrainConfig,
    spec: DataSpec,
    plan: EpochPlan,
    precision: Precision,
    length: RunLength,
    device: Device,
    first: Sequence[Batch],
) -> ModelStep:
    """The model on the device, with its optimizer.

    Args:
        first: the first batches of training and validation, on which the user's own step and evaluation are tried out.

    Raises:
        UserError: the model does not fit the samples, or the user's own step fails.
    """
    task = task_of(config.model)
    model = models.build(config.model, spec, device.torch_device)
    if not config.has_own_step:
        _refuse_batch_of_one(config, spec, plan, model, device)
    elif any(is_lazy(parameter) for parameter in model.parameters()):
        with models.state_kept(model, device.torch_device), torch.no_grad(), precision.autocast():
            task.loss(model, first[0])
    optimizer, schedule = optimizers.build(config.optimizer, model, length.num_updates(), length.num_updates)
    step = ModelStep(model, optimizer, schedule, precision, task=task)
    if config.has_own_step:
        # a compiled model is tried out uncompiled: the compiler's time is part of the training
        with torch.compiler.set_stance("force_eager") if config.model.compile else nullcontext():
            run_step(step, first[0], device)
            for batch in first[1:]:
                run_evaluation(step, batch, device)
    return step


def own_step_text(config: TrainConfig) -> str:
    """The user's own step, for the facts of the run; empty without one."""
    return f", step {config.model.step}" if isinstance(config.model, CustomModel) and config.model.step else ""


def _refuse_batch_of_one(
    config: TrainConfig, spec: DataSpec, plan: EpochPlan, model: nn.Module, device: Device
) -> None:
    """Raises:
    UserError: a batch of training or validation will have one sample, and the model cannot take it.
    """
    in_training = config.batch_size == 1
    if plan.last_batch == 1 and not config.drop_last and not spec.train.num_claimed:
        in_training |= config.steps is None or config.steps >= plan.num_steps
    if in_training and (why := batch_of_one.problem(model, spec, device.torch_device, in_training=True)):
        raise batch_of_one.refuse_training(config, why, plan.num_samples or None)
    if not config.evaluate or spec.val is None or spec.val.num_claimed or not spec.val.num_samples:
        return
    val_plan = validation_plan(spec.val, config.batch_size, plan)
    in_evaluation = val_plan.batch_size == 1 or val_plan.last_batch == 1
    if in_evaluation and (why := batch_of_one.problem(model, spec, device.torch_device, in_training=False)):
        raise batch_of_one.refuse_evaluation(config, why, spec.val.num_samples)

"""Detects models that fail on a batch of one sample (BatchNorm in training mode, a squeeze), and explains it in one line."""

from __future__ import annotations

import torch
from torch import nn

from loaderlab.config import TrainConfig, UserError, choice, refuse
from loaderlab.data.spec import DataSpec
from loaderlab.system import user_code
from loaderlab.system.causes import described, safe_text
from loaderlab.training.models import is_out_of_memory, state_kept

BATCH_NORM = "Expected more than 1 value per channel"  # from torch's BatchNorm, for a batch without variance


class BatchOfOne(Exception):
    """A model returns no logits for a batch of one sample. The text is the reason; the cause is the model's error, if any."""

    def __init__(self, why: str, in_training: bool) -> None:
        super().__init__(why)
        self.in_training = in_training


def logits_of(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Logits (N, num_classes) of a batch. Only a batch of one sample is checked. Does not wait for the device.

    Raises:
        BatchOfOne: the model fails on one sample, or returns another shape for it.
    """
    if len(inputs) != 1:
        logits: torch.Tensor = model(inputs)
        return logits
    try:
        logits = model(inputs)
    except user_code.FAILURES as error:
        if is_out_of_memory(error):
            raise
        raise BatchOfOne(_failure(error), model.training) from error
    shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else ()
    if len(shape) != 2 or shape[0] != 1:
        got = shape if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
        raise BatchOfOne(f"the model returns {got} for a batch of one sample, not (1, num_classes)", model.training)
    return logits


def problem(model: nn.Module, spec: DataSpec, device: torch.device, *, in_training: bool) -> str:
    """The reason why a model fails on a batch of one sample; empty if it does not. The model is not changed."""
    blank = torch.zeros(1, *spec.sample_shape, dtype=getattr(torch, spec.sample_dtype), device=device)
    with state_kept(model, device), torch.no_grad():
        model.train(in_training)
        try:
            logits = logits_of(model, blank)
        except BatchOfOne as error:
            return str(error)
    if logits.shape[1] != len(spec.classes):
        return f"the model returns {tuple(logits.shape)} for a batch of one sample, not (1, {len(spec.classes)})"
    return ""


def refuse_training(config: TrainConfig, why: str, num_samples: int | None = None) -> UserError:
    """The error for a training batch of one sample. ``num_samples``: of the training set, if known."""
    if config.batch_size == 1:
        return refuse("batch_size", 1, why, "batch_size=2")
    if num_samples == 1:
        return refuse("data", choice(config.data), f"there is one training sample, and {why}", "data=digits")
    allowed = f"{_which(num_samples, 'training')}, and {why}"
    return refuse("drop_last", "false", allowed, "drop_last=true, or another batch_size", is_example=False)


def refuse_evaluation(config: TrainConfig, why: str, num_samples: int | None = None) -> UserError:
    """The error for a validation batch of one sample. ``num_samples``: of the validation set, if known."""
    if config.batch_size == 1:
        return refuse("batch_size", 1, f"in the evaluation {why}", "batch_size=2")
    allowed = f"{_which(num_samples, 'validation')}, and {why}"
    return refuse("evaluate", "true", allowed, "evaluate=false, or another batch_size", is_example=False)


def _which(num_samples: int | None, kind: str) -> str:
    if num_samples is None:
        return "a batch has one sample"
    return f"the last of {num_samples} {kind} samples is alone in its batch"


def _failure(error: BaseException) -> str:
    if BATCH_NORM in safe_text(error):
        return "a BatchNorm layer of the model cannot train on a batch of one sample"
    return f"the model fails on a batch of one sample: {described(error)}"

"""What a model is trained for: classification, or a task of the user's own (``model.step``, ``model.evaluate``)."""

from __future__ import annotations

import abc
import re
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from loaderlab import metrics
from loaderlab.config import CustomModel, ModelConfig, UserError
from loaderlab.loaders.contract import Batch
from loaderlab.loaders.worker_death import explained
from loaderlab.system import user_code
from loaderlab.system.causes import described, safe_text
from loaderlab.training.batch_of_one import logits_of
from loaderlab.training.models import is_out_of_memory
from loaderlab.training.rank_group import is_broken

NAME = re.compile(r"[\w.\-/ ]+", re.ASCII)  # of a metric, as MLflow allows it


class Task(abc.ABC):
    """Computes the loss of a batch, and evaluates a batch. The caller switches autocast, gradients and the model's mode."""

    #: further results of the last call of `loss`, by name: numbers, or tensors of one number on the device
    measured: Mapping[str, Any]

    def __init__(self) -> None:
        self.measured = {}

    @abc.abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The mean loss of a batch, a tensor of shape (). May return before the device has finished."""

    @abc.abstractmethod
    def evaluated(self, model: nn.Module, batch: Batch) -> dict[str, Any]:
        """The sums over a batch's samples of each metric of the evaluation, by its name: numbers, or tensors of one number."""


class Classification(Task):
    """The cross entropy of the model's logits."""

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return F.cross_entropy(logits_of(model, batch.inputs), batch.targets)

    def evaluated(self, model: nn.Module, batch: Batch) -> dict[str, Any]:
        logits = logits_of(model, batch.inputs)
        return {
            metrics.VAL_LOSS: F.cross_entropy(logits.float(), batch.targets, reduction="sum"),
            metrics.VAL_ACCURACY: (logits.argmax(1) == batch.targets).sum(),
        }


class OwnTask(Task):
    """A task of the user's own.

    Args:
        config: with ``step``.

    Raises:
        UserError: a function cannot be imported or does not take (model, batch). The methods: it fails, or returns something else than
            a loss or metrics.
    """

    def __init__(self, config: CustomModel) -> None:
        super().__init__()
        assert config.step is not None
        self._step_name, self._evaluate_name = f"model.step={config.step}", f"model.evaluate={config.evaluate}"
        self._step = user_code.function("model.step", config.step, "model", "batch")
        self._evaluate: Callable[..., Any] | None = None
        if config.evaluate is not None:
            self._evaluate = user_code.function("model.evaluate", config.evaluate, "model", "batch")

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        returned = _called(self._step, model, batch, self._step_name)
        loss, measured = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, {})
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            shape = f"a tensor {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else f"a {type(loss).__name__}"
            raise UserError(
                f"{self._step_name}: it returned {shape} as the loss; a tensor of one number is needed, or a pair (loss, metrics). "
                "Return for example: loss.mean()"
            )
        if torch.is_grad_enabled() and not loss.requires_grad:
            raise UserError(
                f"{self._step_name}: its loss has no graph, so nothing can be learned from it. Compute it from the model's output, "
                "without torch.no_grad(), detach() or item()"
            )
        self.measured = {metrics.TASK + name: value for name, value in _numbers(measured, self._step_name).items()}
        return loss.reshape(())

    def evaluated(self, model: nn.Module, batch: Batch) -> dict[str, Any]:
        if self._evaluate is None:
            return {metrics.VAL_LOSS: _double(self.loss(model, batch)) * len(batch)}
        means = _numbers(_called(self._evaluate, model, batch, self._evaluate_name), self._evaluate_name)
        return {metrics.VALIDATION + name: _double(value) * len(batch) for name, value in means.items()}


def task_of(config: ModelConfig) -> Task:
    """The task of a model.

    Raises:
        UserError: a function of the user's own task cannot be used.
    """
    return OwnTask(config) if isinstance(config, CustomModel) and config.step is not None else Classification()


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, torch.Tensor) else value


def _called(function: Callable[..., Any], model: nn.Module, batch: Batch, name: str) -> Any:
    """Raises:
    UserError: the user's function fails.
    """
    try:
        return function(model, batch.inputs if batch.is_whole else (batch.inputs, batch.targets))
    except user_code.FAILURES as error:
        if _has_other_cause(error):
            raise
        raise UserError(
            f"{name}: it failed for a batch of {len(batch)} samples: {described(error)}. HYDRA_FULL_ERROR=1 shows where"
        ) from error


def _has_other_cause(error: BaseException) -> bool:
    """Whether an error is not the user's: no memory is left, another rank or a worker has ended, or no deterministic algorithm exists.
    Such errors are explained elsewhere."""
    if is_out_of_memory(error) or is_broken(error) or explained(error) is not error:
        return True
    return torch.are_deterministic_algorithms_enabled() and "deterministic" in safe_text(error)


def _numbers(returned: Any, name: str) -> dict[str, Any]:
    """The metrics that a user's function returned, without their graphs.

    Raises:
        UserError: it is not a dict of numbers, or a name contains characters that MLflow refuses.
    """
    if not isinstance(returned, Mapping):
        raise UserError(f"{name}: it returned a {type(returned).__name__} as the metrics; a dict of numbers is needed")
    numbers: dict[str, Any] = {}
    for key, value in returned.items():
        if not isinstance(key, str) or not NAME.fullmatch(key):
            raise UserError(f"{name}: a metric is named {key!r}; only letters, digits, spaces and _ - . / are allowed")
        is_tensor = isinstance(value, torch.Tensor)
        if (is_tensor and value.numel() != 1) or not (is_tensor or isinstance(value, Real)):
            kind = f"a tensor {tuple(value.shape)}" if is_tensor else f"a {type(value).__name__}"
            raise UserError(f"{name}: the metric {key} is {kind}; one number is needed")
        numbers[key] = value.detach().reshape(()) if is_tensor else float(value)
    return numbers

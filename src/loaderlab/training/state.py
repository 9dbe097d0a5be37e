"""Restores what steps change that are not part of the training: weights, optimizer, random states."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

from loaderlab.device.base import Device
from loaderlab.device.random_states import random_states_kept
from loaderlab.training.step import ModelStep, TrainingStep


@contextmanager
def untouched(step: TrainingStep, device: Device) -> Iterator[None]:
    """Restores what steps change: weights, buffers, gradients, optimizer, schedule, scaler, mode, random states.

    The copy is in host memory: the run may have filled the GPU's.
    """
    if not isinstance(step, ModelStep):
        with random_states_kept(device.torch_device):
            yield
        return
    model = step.model
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in _tensors(model)}
    gradients = [None if p.grad is None else p.grad.detach().cpu().clone() for p in model.parameters()]
    rest = _on_host({key: value for key, value in step.state().items() if key != "model"})
    training = model.training

    def restore() -> None:
        with torch.no_grad():
            for name, tensor in _tensors(model):
                tensor.copy_(tensors[name])
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = None if gradient is None else gradient.to(parameter.device)
        step.optimizer.load_state_dict(rest["optimizer"])
        step.schedule.load_state_dict(rest["schedule"])
        step.precision.scaler.load_state_dict(rest["scaler"])
        model.train(training)

    try:
        with random_states_kept(device.torch_device):
            yield
    except BaseException:
        with suppress(RuntimeError):  # on a failed device this fails too, and the first error is the one to report
            restore()
        raise
    restore()


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers, including buffers that are not part of a checkpoint."""
    return itertools.chain(model.named_parameters(), model.named_buffers())


def _on_host(state: Any) -> Any:
    """A copy of nested dicts and lists with their tensors in host memory."""
    if isinstance(state, torch.Tensor):
        return state.detach().cpu().clone()
    if isinstance(state, Mapping):
        return {key: _on_host(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(_on_host(value) for value in state)
    return state

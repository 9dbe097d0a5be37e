"""A step before the training, whose effects are discarded: a GPU loads its kernels at the first step that needs them."""

from __future__ import annotations

import torch

from loaderlab.data.spec import DataSpec
from loaderlab.device.base import Device
from loaderlab.loaders.contract import Batch
from loaderlab.training.state import untouched
from loaderlab.training.step import ModelStep


def load_kernels(step: ModelStep, spec: DataSpec, batch_size: int, device: Device) -> None:
    """Runs one step on blank samples, waits for the device and restores everything that the step has changed.

    CUDA loads each kernel at its first call, and cuDNN tries its algorithms at the first batch of a size. Without this step
    the time of both would be part of the training. It is not for a compiled model: the compiler makes other kernels, and its time
    is a cost of this choice.
    """
    inputs = torch.zeros(
        batch_size, *spec.sample_shape, dtype=getattr(torch, spec.sample_dtype), device=device.torch_device
    )
    if spec.train.transform is not None:  # images from our loaders; a user's own inputs keep their order
        inputs = inputs.to(memory_format=torch.channels_last)
    targets = torch.zeros(batch_size, dtype=torch.int64, device=device.torch_device)
    run_step(step, Batch(inputs, targets, None), device)


def run_step(step: ModelStep, batch: Batch, device: Device) -> None:
    """Runs one step on a batch, waits for the device and restores everything that the step has changed.

    Raises:
        UserError: the user's own step cannot be used with this batch.
    """
    with untouched(step, device):
        step.begin_epoch()
        step.backward(step.forward(batch), 1, updates=True)
        step.update()
        device.synchronize()


@torch.no_grad()
def run_evaluation(step: ModelStep, batch: Batch, device: Device) -> None:
    """Evaluates one batch, waits for the device and restores everything that has changed.

    Raises:
        UserError: the user's own evaluation cannot be used with this batch.
    """
    with untouched(step, device):
        step.model.eval()
        with step.precision.autocast():
            step.task.evaluated(step.model, batch)
        device.synchronize()

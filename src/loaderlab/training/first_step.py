"""A step before the training, whose effects are discarded: a GPU loads its kernels at the first step that needs them."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from loaderlab.data.spec import DataSpec
from loaderlab.training.batch_of_one import logits_of
from loaderlab.training.loop import Parts, Progress, update
from loaderlab.training.state import untouched


def load_kernels(parts: Parts, spec: DataSpec, batch_size: int) -> None:
    """Runs one step on blank samples, waits for the device and restores everything that the step has changed.

    CUDA loads each kernel at its first call, and cuDNN tries its algorithms at the first batch of a size. Without this step
    the time of both would be part of the training. It is not for a compiled model: the compiler makes other kernels, and its time
    is a cost of this choice.
    """
    model, device = parts.model, parts.device
    inputs = torch.zeros(batch_size, *spec.sample_shape, dtype=getattr(torch, spec.sample_dtype), device=device)
    if spec.train.transform is not None:  # images from our loaders; a user's own inputs keep their order
        inputs = inputs.to(memory_format=torch.channels_last)
    targets = torch.zeros(batch_size, dtype=torch.int64, device=device)
    with untouched(parts):
        model.train()
        with parts.precision.autocast():
            loss = F.cross_entropy(logits_of(model, inputs), targets)
        parts.precision.scaler.scale(loss).backward()
        update(parts, Progress())
        torch.cuda.synchronize(device)

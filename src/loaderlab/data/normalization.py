"""The mean and standard deviation of a normalization as tensors."""

from __future__ import annotations

import functools

import torch

from loaderlab.data.spec import Normalization


@functools.cache  # a copy to a GPU waits for all work queued there
def mean_and_std(normalization: Normalization, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation for pixels in 0 to 1, each (C, 1, 1) float32 on the device.

    Every caller gets the same two tensors, which must not be written to.
    """
    mean, std = (
        torch.tensor(values, device=device).view(-1, 1, 1) for values in (normalization.mean, normalization.std)
    )
    return mean, std

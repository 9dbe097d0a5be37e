"""Observes whether a device keeps all 24 bits of a float32 mantissa in a matrix product and in a convolution.

The factor is 1 + 2^-12. TF32 and fp16 have 10 bits of mantissa and bf16 has 7, so each of them rounds it to 1. The other factor
copies it, so each result is the value itself or 1. A convolution in full precision may use Winograd's algorithm or a Fourier
transform, with errors around 2^-22: results are compared with the middle between 1 and the value.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from loaderlab.device.base import Device

VALUE = 1 + 2**-12
SIZE_ON_GPU = 2048  # for a small product, cuBLAS may choose a kernel without TF32
SIZE_ON_CPU = 256  # takes less than 1 ms
CONVOLUTION = (32, 256, 16, 16)  # (N, C, H, W); with many channels, tensor cores are fastest


@dataclass(frozen=True)
class Observed:
    """The arithmetic of an operation: the dtype of its result, and whether it rounded its factors."""

    dtype: torch.dtype
    rounded: bool

    def __str__(self) -> str:
        bits = "fewer than" if self.rounded else "all"
        return f"{str(self.dtype).removeprefix('torch.')} with {bits} 24 bits of mantissa"


def observe_product(device: Device) -> Observed:
    """The arithmetic of a product of two square matrices. Waits for the device."""
    size = SIZE_ON_CPU if device.capabilities.uses_host_cores else SIZE_ON_GPU
    return _observed(
        torch.full((size, size), VALUE, device=device.torch_device) @ torch.eye(size, device=device.torch_device)
    )


def observe_convolution(device: Device) -> Observed:
    """The arithmetic of a 3 x 3 convolution, for which cuDNN has a flag of its own. Waits for the device."""
    num_channels = CONVOLUTION[1]
    kernel = nn.init.dirac_(torch.empty(num_channels, num_channels, 3, 3, device=device.torch_device))
    return _observed(
        nn.functional.conv2d(torch.full(CONVOLUTION, VALUE, device=device.torch_device), kernel, padding=1)
    )


def _observed(result: torch.Tensor) -> Observed:
    return Observed(result.dtype, bool((result.float() < (1 + VALUE) / 2).any()))

"""Crop, flip and antialiased resize of a whole batch on its device, as products with small matrices.

An antialiased bilinear resize weighs rows and columns apart (a triangle as wide as one pixel of the smaller side), so an
image is resized by one matrix from the left and one from the right. Which part of the image is seen, and whether it is
mirrored, is a matter of which columns of those matrices are zero and of the order of their rows.

The arithmetic is that of torch's ``interpolate(mode="bilinear", antialias=True)`` of uint8 on a CPU, weights and both
roundings included: but for about one in 100,000, which are one level off, the pixels are the same.
"""

from __future__ import annotations

import torch


def axis_weights(windows: torch.Tensor, mirrored: torch.Tensor | None, size: int, extent: int) -> torch.Tensor:
    """What each pixel of the images weighs in each pixel of the samples, along one axis: (N, size, extent) float32.

    Args:
        windows: (N, 4) int64 of start and length of the window in the image, the length that it is resized to, and the
            first of the ``size`` pixels that are kept of these. Pixels beyond the window weigh nothing.
        mirrored: (N,) bool, samples whose order along this axis is reversed; None: none.
        extent: of the images along this axis.
    """
    start, length, resized, first = windows.double().unsqueeze(-1).unbind(1)  # each (N, 1)
    kept = torch.arange(size, device=windows.device).expand(len(windows), size)
    if mirrored is not None:
        kept = torch.where(mirrored[:, None], size - 1 - kept, kept)
    places = torch.cat([torch.zeros_like(start), first + kept], 1)  # the first: the largest weights are at the border
    scale = length / resized
    pixels = torch.arange(extent, device=windows.device) + 0.5 - start
    distance = (pixels[:, None] - ((places + 0.5) * scale)[..., None]).abs()
    weights = (1 - distance / scale.clamp(min=1)[..., None]).clamp_(min=0)
    weights *= ((pixels > 0) & (pixels < length))[:, None]
    weights /= weights.sum(-1, keepdim=True)
    # as whole numbers of 15 bits, with as many binary places as the largest of an axis allows, but 22 at most
    binary_places = (((2**15 - 0.5) / weights.amax((1, 2), keepdim=True)).log2().ceil() - 1).clamp(max=22)
    units = 2**binary_places
    return ((weights[:, 1:] * units + 0.5).floor() / units).float()


def in_two(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights as a sum of two parts of at most 11 significant bits each.

    The run's precision decides whether a GPU multiplies float32 as TF32, which keeps 11 bits of a factor. Levels, whole
    numbers up to 255, and these parts lose nothing by that; whole weights would.
    """
    high = weights.half().float()
    return high, weights - high


def resample(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Samples (N, C, size, size) uint8 with channels-last strides.

    Args:
        images: (N, height, C, width) uint8: in this order no product needs a copy of them.
        rows: (N, size, height) weights, see `axis_weights`.
        columns: (N, size, width).
    """
    num, height, channels, width = images.shape
    levels = images.view(num, height * channels, width).float()
    high, low = in_two(columns.transpose(1, 2))
    narrow = torch.baddbmm(levels @ high, levels, low).add_(0.5).floor_().view(num, height, -1)
    high, low = in_two(rows)
    samples = torch.baddbmm(high @ narrow, low, narrow).add_(0.5)  # float to uint8 cuts off
    samples = samples.view(num, rows.shape[1], channels, columns.shape[1]).permute(0, 2, 1, 3)
    return samples.to(torch.uint8, memory_format=torch.channels_last)

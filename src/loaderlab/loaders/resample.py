"""Crop, flip and antialiased resize of a whole batch on its device, as matrix products.

An antialiased bilinear resize treats rows and columns separately (its filter is a triangle), so it is a product with one matrix
for the rows and one for the columns. The zero columns of these matrices define the crop, and the order of their rows the flip.

The arithmetic is that of torch's ``interpolate(mode="bilinear", antialias=True)`` for uint8 on a CPU, including the weights and
both roundings. About one pixel in 100,000 differs, by one level.
"""

from __future__ import annotations

import torch


def axis_weights(windows: torch.Tensor, mirrored: torch.Tensor | None, size: int, extent: int) -> torch.Tensor:
    """The weight of each image pixel in each sample pixel along one axis: (N, size, extent) float32.

    Args:
        windows: (N, 4) int64: start and length of the window in the image, the length that it is resized to, and the first
            of the ``size`` resized pixels that are used. Pixels outside the window have weight 0.
        mirrored: (N,) bool, samples that are reversed along this axis; None for no sample.
        extent: of the images along this axis.
    """
    start, length, resized, first = windows.double().unsqueeze(-1).unbind(1)  # each (N, 1)
    kept = torch.arange(size, device=windows.device).expand(len(windows), size)
    if mirrored is not None:
        kept = torch.where(mirrored[:, None], size - 1 - kept, kept)
    places = torch.cat(
        [torch.zeros_like(start), first + kept], 1
    )  # pixel 0 is added: the border has the largest weights
    scale = length / resized
    pixels = torch.arange(extent, device=windows.device) + 0.5 - start
    distance = (pixels[:, None] - ((places + 0.5) * scale)[..., None]).abs()
    weights = (1 - distance / scale.clamp(min=1)[..., None]).clamp_(min=0)
    weights *= ((pixels > 0) & (pixels < length))[:, None]
    weights /= weights.sum(-1, keepdim=True)
    # as 15-bit integers, with as many binary places as the largest weight of an axis allows, at most 22
    binary_places = (((2**15 - 0.5) / weights.amax((1, 2), keepdim=True)).log2().ceil() - 1).clamp(max=22)
    units = 2**binary_places
    return ((weights[:, 1:] * units + 0.5).floor() / units).float()


def split_weights(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights as a sum of two parts with at most 11 significant bits each.

    Depending on the run's precision, a GPU multiplies float32 as TF32, which keeps 11 bits of each factor. These parts, and
    pixel levels up to 255, are exact in TF32; the full weights are not.
    """
    high = weights.half().float()
    return high, weights - high


def resample(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """The resized samples (N, C, size, size), uint8 with channels-last strides.

    Args:
        images: (N, height, C, width) uint8. In this order the products need no copy.
        rows: (N, size, height) weights, see `axis_weights`.
        columns: (N, size, width).
    """
    num, height, channels, width = images.shape
    levels = images.view(num, height * channels, width).float()
    high, low = split_weights(columns.transpose(1, 2))
    narrow = torch.baddbmm(levels @ high, levels, low).add_(0.5).floor_().view(num, height, -1)
    high, low = split_weights(rows)
    samples = torch.baddbmm(high @ narrow, low, narrow).add_(0.5)  # conversion to uint8 truncates
    samples = samples.view(num, rows.shape[1], channels, columns.shape[1]).permute(0, 2, 1, 3)
    return samples.to(torch.uint8, memory_format=torch.channels_last)

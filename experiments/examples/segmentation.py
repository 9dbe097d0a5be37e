"""Segmentation: an image and a mask with the class of each pixel. A batch is a named tuple, which torch collates itself."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

NUM_CLASSES = 3  # background, leaf, stem


class Scene(NamedTuple):
    """An item, or with a first dimension more a batch of them.

    Attributes:
        image: (3, H, W) uint8.
        mask: (H, W) uint8: the class of each pixel.
    """

    image: Tensor
    mask: Tensor


class Leaves(Dataset[Scene]):
    """Ellipses (leaves) on lines (stems) in two shades of noisy green. An item depends only on the seed and its index."""

    def __init__(self, num_samples: int, image_px: int, seed: int) -> None:
        self._num_samples, self._image_px, self._seed = num_samples, image_px, seed

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> Scene:
        rng = np.random.default_rng((self._seed, index))
        size = self._image_px
        y, x = np.mgrid[0:size, 0:size]
        mask = np.zeros((size, size), dtype=np.uint8)
        slope, offset = rng.uniform(-0.6, 0.6), rng.uniform(0.3, 0.7) * size
        along = offset + slope * (y - size / 2)
        mask[np.abs(x - along) < size / 24] = 2
        for _ in range(rng.integers(2, 6)):
            row = rng.uniform(0.1, 0.9) * size
            column = offset + slope * (row - size / 2) + rng.choice([-1, 1]) * size / 7
            height, width = rng.uniform(size / 14, size / 8), rng.uniform(size / 10, size / 6)
            mask[((y - row) / height) ** 2 + ((x - column) / width) ** 2 <= 1] = 1
        colours = np.array([[110, 90, 70], [70, 150, 60], [90, 120, 60]], dtype=np.float32)
        pixels = colours[mask] + rng.normal(0, 30, (size, size, 3))
        return Scene(torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)).permute(2, 0, 1), torch.from_numpy(mask))


def make_datasets(num_train: int = 512, num_val: int = 96, image_px: int = 48) -> tuple[Leaves, Leaves]:
    """The training and the validation set. ``image_px``: height and width, a multiple of 4."""
    return Leaves(num_train, image_px, seed=0), Leaves(num_val, image_px, seed=1)


class SmallUnet(nn.Module):
    """Images (B, 3, H, W) uint8 to logits (B, 3, H, W): an encoder and a decoder of three resolutions, with skip connections."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.ModuleList([_block(3, width), _block(width, 2 * width), _block(2 * width, 4 * width)])
        self.up = nn.ModuleList([_block(6 * width, 2 * width), _block(3 * width, width)])
        self.head = nn.Conv2d(width, NUM_CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        full = self.down[0](images.float() / 255 - 0.4)
        half = self.down[1](F.max_pool2d(full, 2))
        x = self.down[2](F.max_pool2d(half, 2))
        for block, skip in zip(self.up, (half, full), strict=True):
            x = block(torch.cat([skip, F.interpolate(x, scale_factor=2)], 1))
        return torch.as_tensor(self.head(x))


def _block(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.GroupNorm(4, width), nn.ReLU())


def make_model(width: int = 8) -> SmallUnet:
    """The network. ``width``: channels at full resolution."""
    return SmallUnet(width)


def step(model: nn.Module, batch: Scene) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean loss per pixel, and as a metric the share of right pixels. Nothing here waits for the device."""
    logits, mask = model(batch.image), batch.mask.long()
    return F.cross_entropy(logits, mask), {"pixel_accuracy": (logits.argmax(1) == mask).float().mean()}


def evaluate(model: nn.Module, batch: Scene) -> dict[str, Tensor]:
    """The loss, and the mean over the classes of the intersection over union, over the pixels of a batch."""
    logits, mask = model(batch.image), batch.mask.long()
    guess = F.one_hot(logits.argmax(1), NUM_CLASSES).bool()
    truth = F.one_hot(mask, NUM_CLASSES).bool()
    common, either = ((guess & truth).sum((0, 1, 2)), (guess | truth).sum((0, 1, 2)))
    return {"loss": F.cross_entropy(logits, mask), "mean_iou": (common / either.clamp(min=1)).mean()}

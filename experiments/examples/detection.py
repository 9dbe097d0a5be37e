"""Detection: images of different sizes, each with any number of objects, also none. A batch is a dict of lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

NUM_CLASSES = 3  # background, disc, rectangle
STRIDE = 8  # pixels per cell of the model's output


class Shapes(Dataset[dict[str, Tensor]]):
    """Bright discs and rectangles on noise. An item depends only on the seed and its index.

    Its ``image`` is (3, H, W) uint8 with H and W from 48 to 96, ``boxes`` is (N, 4) float32 (left, top, right, bottom in pixels) and
    ``labels`` is (N,) int64, with N from 0 to 4.
    """

    def __init__(self, num_samples: int, seed: int) -> None:
        self._num_samples, self._seed = num_samples, seed

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self._seed, index))
        height, width = rng.integers(48, 97, 2)
        image = rng.integers(0, 100, (3, height, width), dtype=np.uint8)
        boxes, labels = [], []
        for _ in range(rng.integers(0, 5)):
            rows, columns = rng.integers(16, 33, 2)
            top, left = rng.integers(0, height - rows + 1), rng.integers(0, width - columns + 1)
            label = int(rng.integers(1, NUM_CLASSES))
            y, x = np.ogrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
            inside = y**2 + x**2 <= 1 if label == 1 else np.ones((rows, columns), dtype=bool)
            image[:, top : top + rows, left : left + columns][:, inside] = rng.integers(120, 256, (3, 1))
            boxes.append((left, top, left + columns, top + rows))
            labels.append(label)
        return {
            "image": torch.from_numpy(image),
            "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            "labels": torch.tensor(labels, dtype=torch.int64),
        }


def make_datasets(num_train: int = 512, num_val: int = 96) -> tuple[Shapes, Shapes]:
    """The training and the validation set."""
    return Shapes(num_train, seed=0), Shapes(num_val, seed=1)


def collate(items: Sequence[dict[str, Tensor]]) -> dict[str, list[Tensor]]:
    """Lists of tensors, because neither the images nor the boxes can be stacked."""
    return {f"{key}s" if key == "image" else key: [item[key] for item in items] for key in items[0]}


class Predictions(NamedTuple):
    """For each cell: ``logits`` (B, 3, h, w), and ``distances`` (B, 4, h, w) from its centre to the sides of the box, in pixels."""

    logits: Tensor
    distances: Tensor


class Detector(nn.Module):
    """A small network that predicts one object per cell of 8x8 pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_block(3, width, stride=2),
            *_block(width, 2 * width, stride=2),
            *_block(2 * width, 4 * width, stride=2),
            *_block(4 * width, 4 * width, stride=1),
        )
        self.head = nn.Conv2d(4 * width, NUM_CLASSES + 4, 1)

    def forward(self, images: list[Tensor]) -> Predictions:
        output = self.head(self.body(padded(images)))
        return Predictions(output[:, :NUM_CLASSES], STRIDE * F.softplus(output[:, NUM_CLASSES:]))


def _block(channels: int, width: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, width, 3, stride, padding=1), nn.GroupNorm(4, width), nn.ReLU()]


def make_model(width: int = 16) -> Detector:
    """The detector. ``width``: channels of its first layer."""
    return Detector(width)


def padded(images: list[Tensor]) -> Tensor:
    """The images (B, 3, H, W) as float32 of 0 to 1, with zeros on the right and below; H and W are multiples of the stride."""
    height, width = (-(-max(image.shape[side] for image in images) // STRIDE) * STRIDE for side in (1, 2))
    batch = images[0].new_zeros(len(images), 3, height, width)
    for row, image in zip(batch, images, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
    return batch.float() / 255


def cell_targets(boxes: Tensor, labels: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The class of each cell (h, w), 0 without an object, and its distances (4, h, w). Of boxes that overlap, the last one counts."""
    x = (torch.arange(width, device=boxes.device) + 0.5) * STRIDE
    y = (torch.arange(height, device=boxes.device)[:, None] + 0.5) * STRIDE
    classes = torch.zeros(height, width, dtype=torch.int64, device=boxes.device)
    distances = torch.ones(4, height, width, device=boxes.device)
    for (left, top, right, bottom), label in zip(boxes, labels, strict=True):
        sides = torch.stack(torch.broadcast_tensors(x - left, y - top, right - x, bottom - y))
        inside = sides.amin(0) > 0
        classes = torch.where(inside, label, classes)
        distances = torch.where(inside, sides, distances)
    return classes, distances


def iou(ours: Tensor, theirs: Tensor) -> Tensor:
    """Intersection over union (B, h, w) of boxes around the same centre. They are given as distances to their sides (B, 4, h, w)."""
    common = torch.minimum(ours, theirs)
    shared, own, other = ((sides[:, 0] + sides[:, 2]) * (sides[:, 1] + sides[:, 3]) for sides in (common, ours, theirs))
    return shared / (own + other - shared)


def step(model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, and as metrics its parts and the share of the objects' cells whose class and box (IoU of at least 0.5) are right.

    Nothing here waits for the device.
    """
    predictions = model(batch["images"])
    targets = [
        cell_targets(boxes, labels, *predictions.logits.shape[2:])
        for boxes, labels in zip(batch["boxes"], batch["labels"], strict=True)
    ]
    classes = torch.stack([classes for classes, _ in targets])
    overlaps = iou(predictions.distances, torch.stack([sides for _, sides in targets]))
    is_object = classes > 0
    num_objects = is_object.sum().clamp(min=1)  # a batch may have no object
    class_loss = F.cross_entropy(predictions.logits, classes)
    box_loss = ((1 - overlaps) * is_object).sum() / num_objects
    is_right = is_object & (predictions.logits.argmax(1) == classes) & (overlaps >= 0.5)
    metrics = {"class_loss": class_loss, "box_loss": box_loss, "cells_right": is_right.sum() / num_objects}
    return class_loss + box_loss, metrics


def evaluate(model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
    """The loss, and the share of the objects' cells that are right."""
    loss, metrics = step(model, batch)
    return {"loss": loss, "cells_right": metrics["cells_right"]}

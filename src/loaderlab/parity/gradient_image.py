"""Recovers a loader's random crops and flips from its pixels.

The gradient image's red rises linearly from left to right and its green from top to bottom, so a line fitted to the
columns of a sample and one fitted to its rows give its crop. Blue is constant.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from loaderlab.data.paths import PathTable
from loaderlab.data.spec import UINT8, EncodedImages, ImageArrays, ImageFiles, Normalization, Source, Split
from loaderlab.loaders.contract import Batch
from loaderlab.parity.distribution import FLOAT64
from loaderlab.parity.samples import levels

BOOL = npt.NDArray[np.bool_]

AREA_PX = 96 * 128  # of the image
NUM_OPENED = 32  # files that are opened to learn their shape
SIZE_PX = 32  # largest sample: a crop does not depend on the size that it is scaled to
BLUE = 64
TRIMMED_PX = 2  # outermost columns and rows, in which the resizing filter is truncated


@dataclass(frozen=True)
class Draws:
    """Crops and flips of samples of one gradient image.

    Attributes:
        crops: (N, 4) left, right, top, bottom, as shares of the image.
        flipped: (N,) bool.
        blue: (N,) mean of the constant channel.
        ratio: of the gradient image, width / height.
    """

    crops: FLOAT64
    flipped: BOOL
    blue: FLOAT64
    ratio: float

    @property
    def measures(self) -> dict[str, tuple[str, FLOAT64]]:
        """Name of a measure to the mismatch field that it belongs to and its (N,) values."""
        left, right, top, bottom = self.crops.T
        width, height = np.maximum(right - left, 1e-6), np.maximum(bottom - top, 1e-6)
        return {
            "area": ("crop area", width * height),
            "log aspect": ("crop aspect", np.log(width / height * self.ratio)),
            "centre x": ("crop position", (left + right) / 2),
            "centre y": ("crop position", (top + bottom) / 2),
        }

    def repeated(self) -> BOOL:
        """(N,) bool: draws that repeat an earlier one, with the same pixels and flip."""
        draws = np.column_stack([np.round(self.crops, 3), self.flipped])
        first = np.unique(draws, axis=0, return_index=True)[1]
        return ~np.isin(np.arange(len(draws)), first)


class GradientImage:
    """A gradient with the median aspect ratio of a split's images, and a split whose samples all show it."""

    def __init__(self, split: Split) -> None:
        ratio = float(np.clip(_ratio(split.source), 0.25, 4))
        self.height_px, self.width_px = round((AREA_PX / ratio) ** 0.5), round((AREA_PX * ratio) ** 0.5)
        self._original = split

    def image(self) -> UINT8:
        """(height_px, width_px, 3)."""
        y, x = np.mgrid[0 : self.height_px, 0 : self.width_px]
        red, green = 255 * x / (self.width_px - 1), 255 * y / (self.height_px - 1)
        return np.stack([red, green, np.full_like(red, BLUE)], -1).round().astype(np.uint8)

    def split(self, num_samples: int, folder: Path) -> Split:
        """A split with ``num_samples`` copies of it, of the original split's kind: a file in ``folder``, or an array."""
        spec, normalization = self._original.transform, self._original.normalization
        assert spec is not None
        assert normalization is not None
        labels = np.zeros(num_samples, np.int64)
        source: Source
        if isinstance(self._original.source, EncodedImages):
            Image.fromarray(self.image()).save(folder / "gradient.jpg", quality=95, subsampling=0)
            source = ImageFiles(PathTable.of(folder, ["gradient.jpg"] * num_samples), labels)
        else:
            source = ImageArrays(np.repeat(self.image()[None], num_samples, 0), labels)
        mean, std = ((values * 3)[:3] for values in (normalization.mean, normalization.std))
        in_color = Normalization(mean, std, normalization.on_device)
        return Split(source, replace(spec, size=min(SIZE_PX, spec.size)), in_color)

    def read(self, batches: Iterable[Batch], normalization: Normalization) -> Draws:
        """The crops and flips of the samples of these batches."""
        edges, flips, blues = [], [], []
        for batch in batches:
            images = levels(batch.inputs.cpu(), normalization)
            x = _edges(images[:, 0].mean(1), self.width_px)
            y = _edges(images[:, 1].mean(2), self.height_px)
            flips.append(x[:, 0] > x[:, 1])
            edges.append(np.column_stack([np.sort(x, 1), np.sort(y, 1)]))
            blues.append(images[:, 2].mean((1, 2)).double().numpy())
        ratio = self.width_px / self.height_px
        return Draws(np.concatenate(edges), np.concatenate(flips), np.concatenate(blues), ratio)


def _ratio(source: Source) -> float:
    """Median width / height of some images."""
    if isinstance(source, ImageArrays):
        return float(source.images.shape[2] / source.images.shape[1])
    assert isinstance(source, EncodedImages)
    ratios = []
    for index in np.linspace(0, len(source) - 1, min(NUM_OPENED, len(source))).astype(int).tolist():
        with contextlib.suppress(OSError), Image.open(io.BytesIO(source.read(index).tobytes())) as opened:
            ratios.append(opened.width / opened.height)
    return float(np.median(ratios)) if ratios else 1.0


def _edges(profile: torch.Tensor, length_px: int) -> FLOAT64:
    """Positions of a crop's first and last edge, (N, 2) shares of the image, from (N, size) mean levels along it."""
    size = profile.shape[1]
    inner = profile[:, TRIMMED_PX : size - TRIMMED_PX].double().numpy()
    place = np.arange(TRIMMED_PX, size - TRIMMED_PX) + 0.5
    slope, start = np.polyfit(place, inner.T, 1)
    ends = np.column_stack([start, start + slope * size])
    shares: FLOAT64 = (ends * (length_px - 1) / 255 + 0.5) / length_px
    return shares

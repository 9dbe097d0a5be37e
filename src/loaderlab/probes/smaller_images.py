"""What a loader would gain if the images were stored no larger than the training needs them."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

import numpy as np
from PIL import Image, ImageOps

from loaderlab.data.spec import INT64, UINT8, EncodedImages, Split
from loaderlab.loaders.decode import image_size
from loaderlab.loaders.fetch import ImageFetcher, Request

NUM_IMAGES = 16  # examined, spread evenly over the set
ROUNDS = 5
QUALITY = 90  # of the JPEG files that are made: the quality at which photographs are usually stored
WORTH = 1.1  # shorter side / needed side, below which smaller files are not worth the work


@dataclass(frozen=True)
class SmallerImages:
    """The gain of smaller files.

    Attributes:
        side, needed_side: mean shorter side of the stored images, and the one that the training needs, pixels.
        gain_x: time to read, decode and transform a sample now / with smaller files.
    """

    side: float
    needed_side: int
    gain_x: float

    @property
    def sentence(self) -> str:
        """In words, without a full stop."""
        return (
            f"The stored images have a shorter side of about {self.side:.0f} pixels: stored with {self.needed_side}, a worker would "
            f"make {self.gain_x:.1f}x as many samples, but of other pixels"
        )


def smaller_images(split: Split, decoder_name: str) -> SmallerImages | None:
    """Measures the gain on some images, which are made smaller in memory. None if the set has no encoded images, or if they are
    not larger than needed.

    Args:
        decoder_name: see `loaderlab.config.HostLoader`.
    """
    source, transform = split.source, split.transform
    if not isinstance(source, EncodedImages) or transform is None:
        return None
    ids = np.unique(np.linspace(0, len(source) - 1, NUM_IMAGES).astype(np.int64))
    stored = [source.read(int(index)) for index in ids]
    side, needed = fmean(min(image_size(data)) for data in stored), max(transform.resize, transform.size)
    if side < WORTH * needed:
        return None
    arms = [_in_memory(split, arm) for arm in (stored, [_smaller(data, needed) for data in stored])]
    fetchers = [ImageFetcher(arm, batched=True, decoder_name=decoder_name) for arm in arms]
    request = Request(np.arange(len(ids)), 0, 0, 0)
    times: list[list[float]] = [[], []]
    for _ in range(ROUNDS + 1):  # the first one warms up
        for fetcher, spent in zip(fetchers, times, strict=True):
            began = time.perf_counter()
            fetcher.build(request)
            spent.append(time.perf_counter() - began)
    now, then = (median(spent[1:]) for spent in times)
    return SmallerImages(side, needed, now / then)


@dataclass(frozen=True)
class _Bytes(EncodedImages):
    """Encoded images in memory."""

    data: Sequence[UINT8]
    labels: INT64

    def name(self, index: int) -> str:
        return f"image {index}"

    def files(self, ids: INT64) -> list[str]:
        return []

    def read(self, index: int) -> UINT8:
        return self.data[index]

    def take(self, ids: INT64) -> _Bytes:
        return _Bytes([self.data[index] for index in ids], self.labels[ids])


def _in_memory(split: Split, data: Sequence[UINT8]) -> Split:
    return replace(split, source=_Bytes(data, np.zeros(len(data), np.int64)), blocks=None)


def _smaller(data: UINT8, side: int) -> UINT8:
    """The image as a JPEG file with a shorter side of at most ``side`` pixels."""
    with Image.open(io.BytesIO(data.tobytes())) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    factor = min(1.0, side / min(image.size))
    image = image.resize((round(image.width * factor), round(image.height * factor)))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return np.frombuffer(file.getvalue(), np.uint8).copy()  # torch wants writable memory

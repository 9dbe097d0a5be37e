"""The gain of smaller files, measured on real files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loaderlab.config import TransformConfig
from loaderlab.data.paths import PathTable
from loaderlab.data.spec import ImageFiles, Split, Vectors, transforms
from loaderlab.probes.smaller_images import SmallerImages, smaller_images


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Four pictures of 400x300."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    paths = []
    for index in range(4):
        noise = rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)
        path: Path = folder / f"{index}.jpg"
        Image.fromarray(noise).resize((400, 300)).save(path, quality=90)
        paths.append(path.name)
    transform, _, _ = transforms(TransformConfig(image_size=32, resize=40))
    return Split(ImageFiles(PathTable.of(folder, paths), np.zeros(4, np.int64)), transform)


def test_large_files_cost_more_than_small_ones(photos: Split) -> None:
    gain = smaller_images(photos, "torchcodec")
    assert gain is not None
    assert (gain.side, gain.needed_side) == (300, 40)
    assert gain.gain_x > 2
    assert gain.sentence.startswith("The stored images have a shorter side of about 300 pixels: stored with 40, ")


def test_files_that_are_not_larger_than_needed(photos: Split) -> None:
    transform, _, _ = transforms(TransformConfig(image_size=256, resize=290))
    assert smaller_images(replace(photos, transform=transform), "torchcodec") is None


def test_samples_that_are_no_files() -> None:
    vectors = Vectors(np.zeros((4, 2), np.float32), np.zeros(4, np.int64))
    assert smaller_images(Split(vectors), "torchcodec") is None


def test_the_sentence_warns_that_pixels_differ() -> None:
    assert SmallerImages(375, 256, 1.62).sentence == (
        "The stored images have a shorter side of about 375 pixels: stored with 256, a worker would make 1.6x as many samples, but "
        "of other pixels"
    )

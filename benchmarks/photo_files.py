"""JPEG files with the statistics of photographs, written once: 1/f noise in correlated channels, with a few hard edges."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from loaderlab.data.spec import FLOAT32

QUALITY = 92  # about 0.6 bytes a pixel with 4:2:0, as ImageNet's files have
CLASSES = 10
FALL = 1.1  # of the amplitude with spatial frequency, as an exponent: natural images have about 1


def written(root: Path, width: int, height: int, num_files: int) -> Path:
    """The folder-per-class tree of this size under a root; written where it is missing."""
    folder = root / f"{width}x{height}_{num_files}"
    if folder.exists():
        return folder
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    for index in range(num_files):
        path = partial / str(index % CLASSES) / f"{index:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(index, width, height).save(path, quality=QUALITY, subsampling="4:2:0")
    partial.rename(folder)
    return folder


def photo(seed: int, width: int, height: int) -> Image.Image:
    rng = np.random.default_rng([seed, width, height])
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf  # no mean

    def field() -> FLOAT32:
        noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((height, width))) * frequency**-FALL, (height, width))
        return (noise / noise.std()).astype(np.float32)

    light, (y, x) = field(), np.mgrid[:height, :width]
    for _ in range(8):
        centre_y, centre_x = rng.random(2) * (height, width)
        radius_y, radius_x = rng.uniform(0.05, 0.4, 2) * (height, width)
        inside = ((y - centre_y) / radius_y) ** 2 + ((x - centre_x) / radius_x) ** 2 < 1
        light[inside] = light[inside] * rng.uniform(0.5, 1.2) + rng.uniform(-1, 1)
    colours = np.stack([light + 0.35 * field() for _ in range(3)], axis=-1)
    return Image.fromarray((120 + 48 * colours).clip(0, 255).astype(np.uint8))

"""From a file to a sample on the CPU, as the native loader's workers do it: decode, crop, resize, flip.

Every step agrees with DALI's CPU operators to within the tolerance that ``docs/measuring.md`` states.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from loaderlab.data.imagefolder import EXTENSIONS
from loaderlab.data.spec import DataError, TransformSpec

CROP_ATTEMPTS = 10  # as torchvision and DALI
READS = {"torchcodec": frozenset([".jpg", ".jpeg", ".jpe", ".png", ".webp", ".avif"]), "pillow": EXTENSIONS}
Decoder = Callable[[str], torch.Tensor]


def decoder(name: str) -> Decoder:
    """The function that turns a path into an RGB image (3, H, W) uint8, upright by its EXIF orientation.

    Grey, CMYK and palette images become RGB, 16-bit ones are scaled to 8 bits, transparency is dropped. The
    function raises `DataError`, naming the file, for anything that does not decode whole.
    """
    if name == "torchcodec":
        from torchcodec.decoders import decode_image  # type: ignore[attr-defined]

        def read(path: str) -> torch.Tensor:
            image: torch.Tensor = decode_image(path, mode="RGB")
            return image[0] if image.ndim == 4 else image  # the first frame of an animation
    else:
        from PIL import Image, ImageOps

        def read(path: str) -> torch.Tensor:
            with Image.open(path) as opened:
                image = ImageOps.exif_transpose(opened)
                if image.mode.startswith("I;16") or image.mode == "I":  # convert("RGB") would clip
                    image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
                array = np.array(image.convert("RGB"))
            return torch.from_numpy(array).permute(2, 0, 1)

    def decode(path: str) -> torch.Tensor:
        try:
            return read(path)
        except Exception as error:
            raise DataError(why_unreadable(path, error)) from None

    return decode


def why_unreadable(path: str, error: Exception) -> str:
    """One line that names the file and says what is wrong with it."""
    try:
        if os.path.getsize(path) == 0:
            reason = "the file is empty (0 bytes)"
        else:
            reason = (
                str(error).strip().splitlines()[0].rstrip(".").split(", ")[-1]
                if str(error).strip()
                else type(error).__name__
            )
    except OSError as missing:
        reason = missing.strerror or str(missing)
    return f"{path}: does not decode: {reason}. Mend the file or take it out of the folder"


def crop_window(height: int, width: int, spec: TransformSpec, draws: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random resized crop (Szegedy et al. 2015, as torchvision draws it).

    Args:
        height, width: of the image, pixels.
        draws: (CROP_ATTEMPTS, 4) uniform in 0..1: area, aspect ratio, top, left of each attempt.
    """
    low, high = math.log(spec.ratio[0]), math.log(spec.ratio[1])
    for area_draw, ratio_draw, top_draw, left_draw in draws:
        area = height * width * (spec.scale[0] + area_draw * (spec.scale[1] - spec.scale[0]))
        ratio = math.exp(low + ratio_draw * (high - low))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(top_draw * (height - h + 1)), int(left_draw * (width - w + 1)), h, w
    ratio = width / height  # none fitted: the centre, as near to the ratio's bounds as the image lets it
    w = round(height * spec.ratio[1]) if ratio > spec.ratio[1] else width
    h = round(width / spec.ratio[0]) if ratio < spec.ratio[0] else height
    return (height - h) // 2, (width - w) // 2, h, w


def center_window(height: int, width: int, spec: TransformSpec) -> tuple[int, int, int, int]:
    """Height and width that an image is resized to, and top and left of what is then kept of it."""
    scaled = max(spec.size, int(spec.resize * max(height, width) / min(height, width) + 0.5))
    height, width = (spec.resize, scaled) if height <= width else (scaled, spec.resize)
    return height, width, (height - spec.size + 1) // 2, (width - spec.size + 1) // 2


def resize(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Bilinear with antialiasing, uint8 to uint8: (C, H, W) to (C, height, width)."""
    if image.shape[1:] == (height, width):
        return image
    return F.interpolate(image[None], size=(height, width), mode="bilinear", antialias=True)[0]


def resize_center_crop(image: torch.Tensor, spec: TransformSpec) -> torch.Tensor:
    """The shorter side to ``spec.resize``, then the central square of ``spec.size``."""
    height, width, top, left = center_window(image.shape[1], image.shape[2], spec)
    return resize(image, height, width)[:, top : top + spec.size, left : left + spec.size]


def transform_into(out: torch.Tensor, image: torch.Tensor, spec: TransformSpec, draws: np.ndarray, flip: bool) -> None:
    """Writes the sample made of ``image`` into ``out``, a (C, size, size) view of the batch."""
    if spec.random_crop:
        top, left, height, width = crop_window(image.shape[1], image.shape[2], spec, draws)
        image = resize(image[:, top : top + height, left : left + width], spec.size, spec.size)
    else:
        image = resize_center_crop(image, spec)
    out.copy_(image.flip(-1) if flip else image)

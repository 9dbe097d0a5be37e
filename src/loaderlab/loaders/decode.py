"""From a file to a sample on the CPU, in the native loader's workers: decode, crop, resize, flip.

Every step agrees with DALI's CPU operators within the tolerance in ``docs/same_work.md``.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from importlib.metadata import version
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from loaderlab.config import refuse
from loaderlab.data.spec import UINT8, DataError, EncodedImages, TransformSpec
from loaderlab.data.tree import EXTENSIONS
from loaderlab.loaders.header import BITS, JPEG, check_header
from loaderlab.system.causes import reason, with_cause

T = TypeVar("T")
ORIENTATION = 0x0112  # EXIF tag; from 5 on, height and width are swapped
PLACE_IN_SOURCE = re.compile(r"\w+, \S+\.cpp:\d+, ")  # the beginning of torchcodec's messages
LEAST_TORCHCODEC = "0.16"  # the first with decoders of images
CROP_ATTEMPTS = 10  # the same as in torchvision and DALI
READS = {"torchcodec": frozenset([".jpg", ".jpeg", ".jpe", ".png", ".webp", ".avif"]), "pillow": EXTENSIONS}
Decoder = Callable[[UINT8], torch.Tensor]


def decoder(name: str) -> Decoder:
    """The function that decodes bytes to an RGB image (3, H, W) uint8, rotated upright by its EXIF orientation.

    Grey, CMYK and palette images become RGB, images of 12 and 16 bits are scaled to 8 bits, and transparency is dropped. The
    function raises for anything that cannot be decoded completely; see `read_image`.
    """
    if name == "torchcodec":
        decode_image, decode_jpeg = _torchcodec()

        def decode(data: UINT8) -> torch.Tensor:
            read = decode_jpeg if data[:3].tobytes() == JPEG else decode_image
            image = read(torch.from_numpy(data), mode="RGB")
            assert isinstance(image, torch.Tensor)
            return image[0] if image.ndim == 4 else image  # the first frame of an animation
    else:

        def decode(data: UINT8) -> torch.Tensor:
            with Image.open(io.BytesIO(data.tobytes())) as opened:
                image = ImageOps.exif_transpose(opened)
                if image.mode.startswith("I;16") or image.mode == "I":  # convert("RGB") would clip
                    image = Image.fromarray((np.asarray(image).astype(np.uint32) >> _bits(opened) - 8).astype(np.uint8))
                array = np.array(image.convert("RGB"))
            return torch.from_numpy(array).permute(2, 0, 1)

    return decode


def _torchcodec() -> tuple[Callable[..., object], Callable[..., object]]:
    """The decoders of images and of JPEG files.

    Raises:
        UserError: this version has no such decoders, or it does not load.
    """
    try:
        from torchcodec.decoders import decode_image, decode_jpeg  # type: ignore[attr-defined]
    except ModuleNotFoundError:  # not installed: the commands say which extra installs it
        raise
    except (ImportError, RuntimeError) as error:  # without FFmpeg, older versions raise a RuntimeError of many lines
        needed = f"needs torchcodec {LEAST_TORCHCODEC} or newer; installed is {version('torchcodec')}"
        raise refuse("loader.decoder", "torchcodec", needed, "loader.decoder=pillow", is_example=False) from error
    return decode_image, decode_jpeg


def _bits(image: Image.Image) -> int:
    """Bits per pixel of a grey image with more than 8 bits. Pillow scales to 16 bits, except for TIFF files."""
    return int(image.tag_v2[BITS][0]) if isinstance(image, TiffImageFile) else 16


def image_size(data: UINT8) -> tuple[int, int]:
    """Height and width of the upright image, from its header."""
    with Image.open(io.BytesIO(data.tobytes())) as image:
        width, height = image.size
        swapped = image.getexif().get(ORIENTATION, 1) >= 5
    return (width, height) if swapped else (height, width)


def read_image(source: EncodedImages, index: int, decode: Callable[[UINT8], T], max_pixels: int) -> T:
    """The result of ``decode`` for one sample's encoded bytes.

    Raises:
        DataError: the file cannot be read or decoded completely, or is larger than ``max_pixels``. The message names it.
    """
    try:
        data = source.read(index)
        check_header(data, max_pixels)
        return decode(data)
    except Exception as error:
        raise DataError(why_unreadable(source, index, error)) from None


def why_unreadable(source: EncodedImages, index: int, error: Exception) -> str:
    """One line that names the sample and says what is wrong with it."""
    name = source.name(index)
    if isinstance(error, OSError) and error.strerror:
        return (
            f"{name}: cannot be decoded: {with_cause(error, error.strerror)}. Repair the file or remove it from the set"
        )
    try:
        if not len(source.read(index)):
            return f"{name}: cannot be decoded: the file is empty (0 bytes). Repair the file or remove it from the set"
    except OSError as missing:
        return why_unreadable(source, index, missing)
    text = "unknown image format" if isinstance(error, UnidentifiedImageError) else reason(error)
    text = PLACE_IN_SOURCE.sub("", text).removesuffix(".")
    return f"{name}: cannot be decoded: {text}. Repair the file or remove it from the set"


def crop_window(height: int, width: int, spec: TransformSpec, draws: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random resized crop (Szegedy et al. 2015, as torchvision draws it).

    Args:
        height, width: of the image, pixels.
        draws: (CROP_ATTEMPTS, 4) uniform in 0..1: area, aspect ratio, top and left for each attempt.
    """
    low, high = math.log(spec.ratio[0]), math.log(spec.ratio[1])
    for area_draw, ratio_draw, top_draw, left_draw in draws.tolist():
        area = height * width * (spec.scale[0] + area_draw * (spec.scale[1] - spec.scale[0]))
        ratio = math.exp(low + ratio_draw * (high - low))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(top_draw * (height - h + 1)), int(left_draw * (width - w + 1)), h, w
    ratio = width / height  # no attempt fitted: a centre crop, with a ratio as near to the bounds as possible
    w = round(height * spec.ratio[1]) if ratio > spec.ratio[1] else width
    h = round(width / spec.ratio[0]) if ratio < spec.ratio[0] else height
    return (height - h) // 2, (width - w) // 2, h, w


def center_window(height: int, width: int, spec: TransformSpec) -> tuple[int, int, int, int]:
    """Height and width to resize an image to, then top and left of the centre crop."""
    scaled = max(spec.size, int(spec.resize * max(height, width) / min(height, width) + 0.5))
    height, width = (spec.resize, scaled) if height <= width else (scaled, spec.resize)
    return height, width, (height - spec.size + 1) // 2, (width - spec.size + 1) // 2


def resize(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The image resized from (C, H, W) to (C, height, width): bilinear with antialiasing, uint8 to uint8."""
    if image.shape[1:] == (height, width):
        return image
    # torch's kernel for channels-last bytes is twice as fast and as exact; image[None] would lose the channels-last strides
    batch = image.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    return F.interpolate(batch, size=(height, width), mode="bilinear", antialias=True)[0]


def resize_center_crop(image: torch.Tensor, spec: TransformSpec) -> torch.Tensor:
    """The image with its shorter side resized to ``spec.resize``, then cropped to the central square of ``spec.size``."""
    height, width, top, left = center_window(image.shape[1], image.shape[2], spec)
    return resize(image, height, width)[:, top : top + spec.size, left : left + spec.size]


def transform_into(out: torch.Tensor, image: torch.Tensor, spec: TransformSpec, draws: np.ndarray, flip: bool) -> None:
    """Crops, resizes and flips ``image`` into ``out``, a (C, size, size) view of the batch."""
    if spec.random_crop:
        top, left, height, width = crop_window(image.shape[1], image.shape[2], spec, draws)
        image = resize(image[:, top : top + height, left : left + width], spec.size, spec.size)
    else:
        image = resize_center_crop(image, spec)
    # after the resize, a flip has fewer pixels to copy. The result is the same: in 1,500 random crops no pixel differed
    out.copy_(image.flip(-1) if flip else image)

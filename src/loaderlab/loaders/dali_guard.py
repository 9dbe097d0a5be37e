"""Checks in DALI's graph that keep damaged images from its decoder, which could crash on them.

All checks look at the bytes that are decoded, so a file may be replaced or damaged at any time, also after it has been decoded
once. There are two checks of the header. `refuse_implausible` is cheap and lets the pipeline fail. `is_plausible` is exact and
marks each sample, but costs a few percent of small photos. What the first accepts, the second accepts too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from nvidia.dali import fn, math, types
from nvidia.dali.pipeline import do_not_convert

from loaderlab.data.spec import UINT8
from loaderlab.loaders.exif import one_orientation, without_exif
from loaderlab.loaders.header import JPEG, JPEG_PIXELS_PER_BYTE, header_accepted, may_be_tiff

# half of the limit of JPEGs, so that rounding down is safe: pixels // 256 <= bytes means pixels <= 256 * bytes + 255. Photos have
# 2 to 20 pixels per byte
CHEAP_PIXELS_PER_BYTE = JPEG_PIXELS_PER_BYTE // 2
# byte 21 of a JPEG without EXIF data, which usually begins with a JFIF segment of the standard length and quantization tables
DQT = 0xDB


def refuse_implausible(encoded: Any, max_pixels: int) -> Any:
    """The same bytes, which the pipeline must decode instead of ``encoded``. Their shape is given as their number of bytes if
    the header is plausible, otherwise as a larger or smaller number, and then DALI raises an error before it decodes.

    Also refuses images of other formats than JPEG that have many pixels per byte, such as masks. Every operator here costs 0.1
    to 0.2 % of the time of small photos.
    """
    pixels = _num_pixels(encoded)
    largest = math.max(encoded.shape(dtype=types.INT64), pixels // CHEAP_PIXELS_PER_BYTE)
    return fn.reshape(encoded, shape=largest + pixels // (max_pixels + 1))


def is_plausible(encoded: Any, max_pixels: int) -> Any:
    """Whether the header is plausible, for each sample: see `check_header`."""
    pixels, num_bytes = _num_pixels(encoded), encoded.shape(dtype=types.INT64)[0]
    return (pixels <= max_pixels) & ((encoded[0] != JPEG[0]) | (pixels <= JPEG_PIXELS_PER_BYTE * num_bytes))


def _num_pixels(encoded: Any) -> Any:
    shape = fn.peek_image_shape(encoded)  # raises for a header that it cannot parse
    return shape[0] * shape[1]


@do_not_convert  # type: ignore[untyped-decorator]
def drop_unscaled_tiff(max_pixels: int, data: UINT8) -> UINT8:
    """The same bytes, or one byte instead of a TIFF file that `check_header` refuses. DALI would decode floats as if they were
    0 to 1, but it refuses a single byte."""
    return data if not may_be_tiff(data) or header_accepted(data, max_pixels) else np.zeros(1, np.uint8)


@do_not_convert  # type: ignore[untyped-decorator]  # DALI's conditionals would rewrite this function and those it calls
def with_one_orientation(data: UINT8) -> UINT8:
    """The same image, without EXIF data if readers could disagree about its orientation."""
    return data if one_orientation(data) else without_exif(data)

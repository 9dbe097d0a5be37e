"""Checks the size and pixel type in an image's header before it is decoded. This protects against decompression bombs, and
against pixels without a known range, which would become black or white."""

from __future__ import annotations

import io

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from loaderlab.data.spec import UINT8, DataError

JPEG = b"\xff\xd8\xff"
# the most pixels per byte: each 8x8 luminance block takes a Huffman code of at least one bit
JPEG_PIXELS_PER_BYTE = 512
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOFn: the frame header, which contains the size
ARITHMETIC = 0xC9  # from this code on, frames have no Huffman codes
TIFF = (b"II", b"MM")
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # TIFF 6.0, section 8 and 19
WHITE_IS_ZERO = 0
SCALED_BITS = {1, 2, 4, 8, 12, 16}  # unsigned integers of these sizes are scaled to 0..255
UNSIGNED = {1}
FORMAT_NAMES = {2: "signed integers", 3: "floats"}
ALONE = frozenset([0x01, *range(0xD0, 0xDA)])  # markers without a segment: TEM, RSTn, SOI, EOI


def lift_pillow_limit() -> None:
    """Removes Pillow's limit on image size in this process, because `check_header` applies ``data.max_pixels`` instead. Called
    at the start of each process that decodes images."""
    Image.MAX_IMAGE_PIXELS = None


def check_header(data: UINT8, max_pixels: int) -> None:
    """Checks the size and the pixel type in the header.

    Raises:
        DataError: the image is larger than ``max_pixels`` or than its bytes can encode, or its pixels have no known range.
        Exception: Pillow cannot read the header (of another format than JPEG).
    """
    pixels, huffman = num_pixels(data)
    if pixels > max_pixels:
        raise DataError(
            f"{pixels:,} pixels are more than data.max_pixels={max_pixels}; this may be a decompression bomb. If the image is "
            f"genuine, type: data.max_pixels={pixels}"
        )
    if huffman and pixels > JPEG_PIXELS_PER_BYTE * len(data):
        raise DataError(
            f"its header gives {pixels:,} pixels, more than its {len(data):,} bytes can encode; the file is truncated or damaged"
        )


def num_pixels(data: UINT8) -> tuple[int, bool]:
    """Width x height (x frames), and whether it is a JPEG with Huffman codes. 0 pixels for a JPEG without a frame, which cannot
    be decoded.

    Raises:
        DataError: the pixels have no known range.
        Exception: Pillow cannot read the header (of another format than JPEG).
    """
    if data[:3].tobytes() != JPEG:
        with Image.open(io.BytesIO(data.tobytes())) as image:
            if (kind := unscaled(image)) is not None:
                raise DataError(f"its pixels are {kind}, which have no known range; convert it to 8 bits")
            return image.width * image.height * getattr(image, "n_frames", 1), False
    # ITU-T T.81, B.1.1: a marker is 0xFF and a code; bytes between segments are skipped, as in libjpeg
    encoded, at = data.tobytes(), 2
    while (at := encoded.find(b"\xff", at)) >= 0 and at + 9 <= len(encoded):
        code = encoded[at + 1]
        if code in FRAMES:
            height, width = int.from_bytes(encoded[at + 5 : at + 7]), int.from_bytes(encoded[at + 7 : at + 9])
            return height * width, code < ARITHMETIC
        if code == 0xFF:
            at += 1
        elif code == 0 or code in ALONE:
            at += 2
        else:
            at += 2 + int.from_bytes(encoded[at + 2 : at + 4])
    return 0, False


def may_be_tiff(data: UINT8) -> bool:
    """Whether the first bytes are those of a TIFF file."""
    return data[:2].tobytes() in TIFF


def unscaled(image: Image.Image) -> str | None:
    """The pixel type of an opened image if its range is unknown; otherwise None.

    Pillow clips such pixels to 0..255, so that the image becomes black or white.
    """
    if isinstance(image, TiffImageFile):
        bits, formats = set(image.tag_v2.get(BITS, (1,))), set(image.tag_v2.get(SAMPLE_FORMAT, (1,)))
        if not bits <= SCALED_BITS or not formats <= UNSIGNED:
            names = {FORMAT_NAMES.get(number, "integers") for number in formats}
            return f"{max(bits)}-bit {' and '.join(sorted(names))}"
        if max(bits) > 8 and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:
            return f"{max(bits)}-bit numbers where 0 is white"
        return None
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):  # Pillow scales 16-bit PNM
        return "32-bit floats" if image.mode == "F" else "32-bit integers"
    return None


def header_accepted(data: UINT8, max_pixels: int) -> bool:
    """Whether `check_header` accepts the image. A header that cannot be read is left to the decoder."""
    try:
        check_header(data, max_pixels)
    except DataError:
        return False
    except Exception:
        return True
    return True

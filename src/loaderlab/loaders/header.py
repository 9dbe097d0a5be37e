"""The size and the pixel type of an image by its header, checked before anything is decoded: protection against decompression
bombs, and against pixels without a known range, which would become black or white."""

from __future__ import annotations

import io

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from loaderlab.data.spec import UINT8, DataError

JPEG = b"\xff\xd8\xff"
# pixels that one byte can stand for at most: each 8x8 block of the luminance takes one Huffman code of one bit or more
JPEG_PIXELS_PER_BYTE = 512
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOFn: the frame's header, with its size
ARITHMETIC = 0xC9  # from here on frames without Huffman codes
TIFF = (b"II", b"MM")
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # TIFF 6.0, section 8 and 19
WHITE_IS_ZERO = 0
SCALED_BITS = {1, 2, 4, 8, 12, 16}  # whole numbers without a sign, scaled to 0..255 by their largest value
UNSIGNED = {1}
FORMAT_NAMES = {2: "signed whole numbers", 3: "floats"}
ALONE = frozenset([0x01, *range(0xD0, 0xDA)])  # markers without a segment: TEM, RSTn, SOI, EOI


def lift_pillow_limit() -> None:
    """Lets Pillow open images of any size in this process: `check_header` refuses by ``data.max_pixels`` instead, and
    Pillow's own limit warns of smaller ones. For the entry point of each process that decodes images."""
    Image.MAX_IMAGE_PIXELS = None


def check_header(data: UINT8, max_pixels: int) -> None:
    """Raises:
    DataError: the image is larger than ``max_pixels``, or than its bytes can hold, or its pixels have no known range.
    Exception: Pillow makes nothing of the header of another format than JPEG.
    """
    pixels, huffman = num_pixels(data)
    if pixels > max_pixels:
        raise DataError(
            f"{pixels:,} pixels are more than data.max_pixels={max_pixels}: a decompression bomb? If it is none, type "
            f"data.max_pixels={pixels}"
        )
    if huffman and pixels > JPEG_PIXELS_PER_BYTE * len(data):
        raise DataError(
            f"its header tells of {pixels:,} pixels, more than its {len(data):,} bytes can hold: cut short or spoiled"
        )


def num_pixels(data: UINT8) -> tuple[int, bool]:
    """Width x height (x frames), and whether it is a JPEG of Huffman codes; 0 pixels where a JPEG has no frame, which then
    does not decode either.

    Raises:
        DataError: the pixels have no known range.
        Exception: Pillow makes nothing of the header of another format than JPEG.
    """
    if data[:3].tobytes() != JPEG:
        with Image.open(io.BytesIO(data.tobytes())) as image:
            if (kind := unscaled(image)) is not None:
                raise DataError(f"its pixels are {kind}, which are not scaled to 0..255: convert it to 8 bits")
            return image.width * image.height * getattr(image, "n_frames", 1), False
    # ITU-T T.81, B.1.1: markers are 0xFF and a code; what lies between segments is passed over, as libjpeg does it
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
    """By its first bytes."""
    return data[:2].tobytes() in TIFF


def unscaled(image: Image.Image) -> str | None:
    """What kind of pixels an opened image has, if it does not say which values are black and white; else None.

    Pillow clips them to 0..255: floats of 0..1 become black, as 32-bit whole numbers do.
    """
    if isinstance(image, TiffImageFile):
        bits, formats = set(image.tag_v2.get(BITS, (1,))), set(image.tag_v2.get(SAMPLE_FORMAT, (1,)))
        if not bits <= SCALED_BITS or not formats <= UNSIGNED:
            names = {FORMAT_NAMES.get(number, "whole numbers") for number in formats}
            return f"{max(bits)}-bit {' and '.join(sorted(names))}"
        if max(bits) > 8 and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:
            return f"{max(bits)}-bit numbers of which 0 is white"
        return None
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):  # PNM of 16 bits is scaled by Pillow
        return "32-bit floats" if image.mode == "F" else "32-bit whole numbers"
    return None

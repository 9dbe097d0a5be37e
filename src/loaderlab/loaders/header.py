"""The size of an image by its header, checked before anything is decoded: protection against decompression bombs."""

from __future__ import annotations

import io

from PIL import Image

from loaderlab.data.spec import UINT8, DataError

JPEG = b"\xff\xd8\xff"
# pixels that one byte can stand for at most: each 8x8 block of the luminance takes one Huffman code of one bit or more
JPEG_PIXELS_PER_BYTE = 512
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOFn: the frame's header, with its size
ARITHMETIC = 0xC9  # from here on frames without Huffman codes
ALONE = frozenset([0x01, *range(0xD0, 0xDA)])  # markers without a segment: TEM, RSTn, SOI, EOI


def lift_pillow_limit() -> None:
    """Lets Pillow open images of any size in this process: `check_header` refuses by ``data.max_pixels`` instead, and
    Pillow's own limit warns of smaller ones. For the entry point of each process that decodes images."""
    Image.MAX_IMAGE_PIXELS = None


def check_header(data: UINT8, max_pixels: int) -> None:
    """Raises:
    DataError: the image is larger than ``max_pixels``, or than its bytes can hold.
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
        Exception: Pillow makes nothing of the header of another format than JPEG.
    """
    if data[:3].tobytes() != JPEG:
        with Image.open(io.BytesIO(data.tobytes())) as image:
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

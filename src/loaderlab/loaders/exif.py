"""A check for ambiguous EXIF orientation, and removal of the EXIF data.

nvImageCodec 0.9 allocates an image's memory by the orientation that it reads. An image that libjpeg-turbo cannot decode is passed
to OpenCV, which reads the orientation itself. If the two differ, as with damaged data, OpenCV writes beyond the memory.
"""

from __future__ import annotations

import struct

import numpy as np

from loaderlab.data.spec import UINT8
from loaderlab.loaders.header import ALONE, JPEG

APP1 = 0xE1
SCAN = 0xDA  # SOS: coded data begins here, and no reader looks for EXIF data after it
NAME = b"Exif\0\0"
BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
ORIENTATION = 0x0112
SHORT = 3
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # bytes per value of each type


def one_orientation(data: UINT8) -> bool:
    """Whether all readers see the same orientation: true for a JPEG without EXIF data or with one well-formed EXIF segment. Also
    true for other formats, because no second decoder reads their orientation."""
    encoded = data.data
    if encoded[:3] != JPEG:
        return True
    blocks: list[bytes] = []
    at = 2
    while at + 4 <= len(encoded):
        mark, code, length = struct.unpack_from(">BBH", encoded, at)
        if mark != 0xFF or code in ALONE:
            break  # readers differ in how they skip a gap between segments
        if code == SCAN:
            return not blocks or (len(blocks) == 1 and _well_formed(blocks[0]))
        if encoded[at + 4 : at + 8] == NAME[:4]:
            is_exif = code == APP1 and encoded[at + 8 : at + 10] == NAME[4:]
            blocks.append(bytes(encoded[at + 10 : at + 2 + length]) if is_exif else b"")
        at += 2 + length
    return NAME[:4] not in data.tobytes()


def without_exif(data: UINT8) -> UINT8:
    """The same JPEG with the EXIF data renamed, so that no reader rotates the image."""
    return np.frombuffer(data.tobytes().replace(NAME[:4], b"none"), np.uint8)


def _well_formed(block: bytes) -> bool:
    """Whether all entries of the first directory of a TIFF block (TIFF 6.0, section 2), and their values, are within it."""
    order = BYTE_ORDERS.get(block[:4])
    if order is None:
        return False
    try:
        (first,) = struct.unpack_from(order + "I", block, 4)
        (entries,) = struct.unpack_from(order + "H", block, first)
        for number in range(entries):
            tag, kind, count, value = struct.unpack_from(order + "HHII", block, first + 2 + 12 * number)
            size = SIZES.get(kind, len(block)) * count
            if size > 4 and value + size > len(block):
                return False
            if tag == ORIENTATION:
                (orientation,) = struct.unpack_from(order + "H", block, first + 10 + 12 * number)
                if (kind, count) != (SHORT, 1) or not 1 <= orientation <= 8:
                    return False
    except struct.error:  # the block ends before its last entry
        return False
    return True

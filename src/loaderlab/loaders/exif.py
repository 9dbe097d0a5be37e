"""EXIF data that leaves an image's orientation in doubt, and the image without it.

nvImageCodec 0.9 sizes an image's memory by its own reading of the orientation. What libjpeg-turbo does not decode goes on to
OpenCV, which turns the image by *its* reading; where the two differ, as they may for damaged data, it writes beyond that memory.
"""

from __future__ import annotations

import struct

import numpy as np

from loaderlab.data.spec import UINT8
from loaderlab.loaders.header import ALONE, JPEG

APP1 = 0xE1
SCAN = 0xDA  # SOS: from here on there is coded data, and no reader looks for EXIF
NAME = b"Exif\0\0"
BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
ORIENTATION = 0x0112
SHORT = 3
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # of a value of each type, bytes


def one_orientation(data: UINT8) -> bool:
    """Whether all readers find the same: true for a JPEG without EXIF data, or with one well-formed block of it where it belongs;
    for other formats too, whose sizes are read by no second decoder."""
    encoded = data.data
    if encoded[:3] != JPEG:
        return True
    blocks: list[bytes] = []
    at = 2
    while at + 4 <= len(encoded):
        mark, code, length = struct.unpack_from(">BBH", encoded, at)
        if mark != 0xFF or code in ALONE:
            break  # over a gap between segments each reader has its own way
        if code == SCAN:
            return not blocks or (len(blocks) == 1 and _well_formed(blocks[0]))
        if encoded[at + 4 : at + 8] == NAME[:4]:
            right = code == APP1 and encoded[at + 8 : at + 10] == NAME[4:]
            blocks.append(bytes(encoded[at + 10 : at + 2 + length]) if right else b"")
        at += 2 + length
    return NAME[:4] not in data.tobytes()


def without_exif(data: UINT8) -> UINT8:
    """The same JPEG, its EXIF data under a name that no reader knows: it stays as it is stored."""
    return np.frombuffer(data.tobytes().replace(NAME[:4], b"none"), np.uint8)


def _well_formed(block: bytes) -> bool:
    """The first directory of a TIFF block (TIFF 6.0, section 2): all its entries, and what they point to, lie within it."""
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
                (turned,) = struct.unpack_from(order + "H", block, first + 10 + 12 * number)
                if (kind, count) != (SHORT, 1) or not 1 <= turned <= 8:
                    return False
    except struct.error:  # it ends before its entries do
        return False
    return True

"""Kinds of damaged image files, and what each decoder must do with them: the table in docs/loaders.md."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

from tests.conftest import picture

REFUSED, DECODED, EITHER = "refused", "decoded", "either"
HOST, DALI_CPU, DALI_MIXED = "torchcodec, Pillow", "DALI, cpu", "DALI, mixed"
DECODERS = (HOST, DALI_CPU, DALI_MIXED)


def encoded(kind: str, **options: object) -> bytes:
    file = BytesIO()
    Image.fromarray(picture(120, 160, 3)).save(file, kind, **options)
    return file.getvalue()


JPEG = encoded("JPEG", quality=92, subsampling=2)
PROGRESSIVE = encoded("JPEG", quality=92, progressive=True)
PNG = encoded("PNG")
SCAN = JPEG.index(b"\xff\xda")  # the marker before the compressed pixels
MIDDLE = (SCAN + len(JPEG)) // 2


def as_bomb(data: bytes) -> bytes:
    """The same JPEG with 65,535 x 65,535 pixels in its header."""
    at = data.find(b"\xff\xc0")
    return data[: at + 5] + b"\xff" * 4 + data[at + 9 :]


def overwritten(data: bytes, content: bytes) -> bytes:
    return data[:MIDDLE] + content + data[MIDDLE + len(content) :]


NOISE = np.random.default_rng(1).integers(1, 250, 8, np.uint8).tobytes()
DAMAGED: dict[str, dict[str, bytes]] = {  # kind of damage to files with it
    "empty, or not an image": {"empty": b"", "text": b"no image" * 50},
    "too many pixels in the header": {"bomb": as_bomb(JPEG)},
    "a JPEG that ends too early": {
        "half": JPEG[: len(JPEG) // 2],
        "without the last 400 bytes": JPEG[:-400],
        "without the last 20 bytes": JPEG[:-20],
        "without its end marker": JPEG[:-2],
        "only the header": JPEG[:SCAN],
        "half, progressive": PROGRESSIVE[: len(PROGRESSIVE) // 2],
    },
    "a PNG that ends too early": {"half": PNG[: len(PNG) // 2]},
    "a JPEG with changed pixel data": {"noise": overwritten(JPEG, NOISE), "zeros": overwritten(JPEG, bytes(200))},
    "a JPEG with a wrong marker in its pixel data": {"marker": overwritten(JPEG, b"\xff\xff")},
    "bytes after the end of a JPEG": {"text": JPEG + b"x" * 100},
}
EXPECTED: dict[str, tuple[str, str, str]] = {  # kind of damage to the expectation for each of `DECODERS`
    "empty, or not an image": (REFUSED, REFUSED, REFUSED),
    "too many pixels in the header": (REFUSED, REFUSED, REFUSED),
    "a JPEG that ends too early": (REFUSED, REFUSED, EITHER),
    "a PNG that ends too early": (REFUSED, REFUSED, REFUSED),
    "a JPEG with changed pixel data": (DECODED, DECODED, EITHER),
    "a JPEG with a wrong marker in its pixel data": (REFUSED, DECODED, EITHER),
    "bytes after the end of a JPEG": (DECODED, DECODED, DECODED),
}
FILES = [(damage, name) for damage, files in DAMAGED.items() for name in files]


def expectation(damage: str, decoder: str) -> str:
    return EXPECTED[damage][DECODERS.index(decoder)]

"""Whether two readers could disagree about a file's EXIF orientation."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from loaderlab.data.spec import UINT8
from loaderlab.loaders.exif import one_orientation, without_exif

TAG = struct.pack(">HHI", 0x0112, 3, 1)  # orientation, SHORT, count 1


def _jpeg(turned: int | None = 6) -> bytes:
    exif, out = Image.Exif(), io.BytesIO()
    if turned is not None:
        exif[0x0112] = turned
        exif[0x010E] = "a caption that is stored outside its entry"
    Image.new("RGB", (66, 35), "teal").save(out, "JPEG", **({} if turned is None else {"exif": exif}))
    return out.getvalue()


def _array(encoded: bytes) -> UINT8:
    return np.frombuffer(encoded, np.uint8)


@pytest.mark.parametrize("turned", [None, 1, 3, 6, 8])
def test_intact_files_have_one_orientation(turned: int | None) -> None:
    assert one_orientation(_array(_jpeg(turned)))


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_are_read(order: str) -> None:
    block = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    segment = b"\xff\xe1" + struct.pack(">H", 2 + 6 + len(block)) + b"Exif\0\0" + block
    assert one_orientation(_array(_jpeg(None)[:2] + segment + _jpeg(None)[2:]))


def test_png_and_webp_are_not_checked() -> None:
    exif = Image.Exif()
    exif[0x0112] = 99
    for kind in ("PNG", "WEBP"):
        out = io.BytesIO()
        Image.new("RGB", (8, 8)).save(out, kind, exif=exif)
        assert one_orientation(_array(out.getvalue()))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(TAG, TAG[:4] + struct.pack(">I", 2), id="two orientations in one entry"),
        pytest.param(TAG, struct.pack(">HHI", 0x0112, 4, 1), id="an orientation of another type"),
        pytest.param(TAG + b"\0\6", TAG + b"\0\0", id="an orientation out of range"),
        pytest.param(b"MM\0*", b"MM\1*", id="no TIFF header"),
        pytest.param(b"MM\0*\0\0\0\10", b"MM\0*\0\0\1\0", id="a directory beyond the end"),
        pytest.param(b"\0\0\0\10\0\2", b"\0\0\0\10\0\11", id="more entries than there are"),
        pytest.param(struct.pack(">HH", 0x010E, 2), struct.pack(">HH", 0x010E, 12), id="a value beyond the end"),
        pytest.param(struct.pack(">HH", 0x010E, 2), struct.pack(">HH", 0x010E, 77), id="a type that does not exist"),
        pytest.param(b"Exif\0\0", b"Exif\0\1", id="another name"),
        pytest.param(b"\xff\xe1", b"\xff\xe9", id="another segment"),
        pytest.param(b"\xff\xe1", b"\0\xff\xe1", id="a gap before it"),
        pytest.param(b"\xff\xe0\0\x10", b"\xff\xe0\xff\x10", id="a segment beyond the end"),
        pytest.param(b"\xff\xdb", b"\xff\xe1\0\x08Exif\0\0\xff\xdb", id="a second one"),
    ],
)
def test_damage_is_detected(old: bytes, new: bytes) -> None:
    whole = _jpeg()
    assert whole.count(old) >= 1
    assert not one_orientation(_array(whole.replace(old, new, 1)))


def test_every_truncated_file_is_handled() -> None:
    """A file that ends before its scan is damaged; if it has EXIF data, the orientation is ambiguous."""
    whole = _jpeg()
    first, scan = whole.find(b"Exif"), whole.find(b"\xff\xda")
    assert [cut for cut in range(scan) if one_orientation(_array(whole[:cut]))] == list(range(first + 4))


def test_without_exif_nothing_else_changes() -> None:
    stripped = without_exif(_array(_jpeg(6)))
    assert not Image.open(io.BytesIO(stripped.tobytes())).getexif()
    assert one_orientation(stripped)
    assert (
        np.asarray(Image.open(io.BytesIO(stripped.tobytes()))) == np.asarray(Image.open(io.BytesIO(_jpeg(6))))
    ).all()

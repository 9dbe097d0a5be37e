"""TIFF files of each pixel type: correct in every backend that reads them, or refused by all with the file's name."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from loaderlab import data, loaders
from loaderlab.config import DaliLoader, LoaderConfig, NativeLoader, SpdlLoader, TransformConfig, WebDatasetData
from loaderlab.data.spec import DataError
from loaderlab.device.cpu import Cpu
from loaderlab.loaders.contract import EpochPlan
from loaderlab.loaders.decode import decoder
from loaderlab.loaders.header import check_header
from tests.conftest import write_tar
from tests.loaders.test_decode import one

SIDE = 16
GREY = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE)  # all values from black to white
BACKENDS: dict[str, LoaderConfig] = {
    "pillow": NativeLoader(num_workers=0, decoder="pillow"),
    "spdl": SpdlLoader(num_threads=1, decoder="pillow"),
    "dali": DaliLoader(num_threads=1),
}


def tiff(content: bytes, bits: int, sample_format: int, photometric: int = 1) -> bytes:
    """A grey TIFF file with one strip (TIFF 6.0)."""
    entries = {256: SIDE, 257: SIDE, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: SIDE, 279: len(content)}
    entries |= {339: sample_format}
    begin = 8 + 2 + 12 * len(entries) + 4
    entries[273] = begin
    kinds = {273: 4, 279: 4}  # LONG; the others are SHORT
    directory = b"".join(struct.pack("<HHII", tag, kinds.get(tag, 3), 1, value) for tag, value in entries.items())
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + content


def twelve_bits(values: np.ndarray) -> bytes:
    """12-bit values, two in three bytes, high bits first."""
    first, second = values.astype(np.uint16).ravel()[::2], values.astype(np.uint16).ravel()[1::2]
    parts = [first >> 4, (first & 15) << 4 | second >> 8, second & 255]
    return np.stack(parts, 1).astype(np.uint8).tobytes()


WIDE = GREY.astype(np.int64)
READ = {
    "8 bits": tiff(GREY.tobytes(), 8, 1),
    "16 bits": tiff((WIDE * 257).astype("<u2").tobytes(), 16, 1),
    "8 bits, 0 is white": tiff((255 - GREY).tobytes(), 8, 1, photometric=0),
    "12 bits": tiff(twelve_bits((WIDE * 4095 / 255).round()), 12, 1),
}
REFUSED = {
    "32-bit floats": tiff((GREY / np.float32(255)).tobytes(), 32, 3),
    "32-bit signed integers": tiff(WIDE.astype("<i4").tobytes(), 32, 2),
    "32-bit integers": tiff((WIDE << 24).astype("<u4").tobytes(), 32, 1),
    "16-bit signed integers": tiff((WIDE * 100).astype("<i2").tobytes(), 16, 2),
    "8-bit signed integers": tiff((WIDE - 128).astype("i1").tobytes(), 8, 2),
    "16-bit numbers where 0 is white": tiff((65535 - WIDE * 257).astype("<u2").tobytes(), 16, 1, photometric=0),
}


def folder_of(content: bytes, tmp_path: Path) -> Path:
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "image.tif").write_bytes(content)
    return tmp_path


@pytest.mark.parametrize("kind", READ)
def test_all_values_are_read(kind: str) -> None:
    encoded = np.frombuffer(READ[kind], np.uint8)
    check_header(encoded, 1000)
    assert torch.equal(decoder("pillow")(encoded), torch.from_numpy(GREY).expand(3, -1, -1))


@pytest.mark.parametrize("kind", READ)
def test_dali_reads_the_same(kind: str, tmp_path: Path) -> None:
    root = folder_of(READ[kind], tmp_path)
    assert (one("dali", root).int() - one("pillow", root).int()).abs().max() <= 1  # both resize and round


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("backend", ["pillow", "dali"])
def test_pixels_without_a_known_range_are_refused(backend: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        one(backend, folder_of(REFUSED[kind], tmp_path))
    assert str(refused.value) == (
        f"{tmp_path}/only/image.tif: cannot be decoded: its pixels are {kind}, which have no known range; convert it to 8 "
        "bits. Repair the file or remove it from the set"
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_they_are_refused_in_a_tar_file_too(backend: str, tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("x.tif", REFUSED["32-bit floats"]), ("x.cls", b"0")])
    transform = TransformConfig(image_size=SIDE, train_crop="center", flip=0.0)
    config = WebDatasetData(shards=str(tmp_path), image_keys="tif", val_fraction=0.0, transform=transform)
    train = data.build(config, lambda *_: None).train
    loader = loaders.build(BACKENDS[backend], train, EpochPlan(1, 1, False, False), Cpu())
    try:
        with pytest.raises(DataError, match=r"a\.tar: x\.tif: cannot be decoded: its pixels are 32-bit floats"):
            next(iter(loader.epoch(0)))
    finally:
        loader.close()


def test_a_float_image_of_another_format_is_refused() -> None:
    out = io.BytesIO()
    Image.fromarray(GREY / np.float32(255)).save(out, "PPM")  # PFM
    with pytest.raises(DataError, match="32-bit floats"):
        check_header(np.frombuffer(out.getvalue(), np.uint8), 1000)


def test_a_pgm_of_sixteen_bits_is_read() -> None:
    out = io.BytesIO()
    Image.fromarray((WIDE * 257).astype(np.uint16)).save(out, "PPM")
    encoded = np.frombuffer(out.getvalue(), np.uint8)
    check_header(encoded, 1000)
    assert torch.equal(decoder("pillow")(encoded), torch.from_numpy(GREY).expand(3, -1, -1))

"""From a file to a sample: every kind of file, and the crops, in both backends."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from loaderlab import data, loaders
from loaderlab.config import (
    DaliLoader,
    ImageFolderData,
    LoaderConfig,
    NativeLoader,
    SpdlLoader,
    TransformConfig,
    UserError,
)
from loaderlab.data.spec import DataError, TransformSpec
from loaderlab.device.cpu import Cpu
from loaderlab.loaders.contract import EpochPlan, LoaderError
from loaderlab.loaders.decode import crop_window, decoder
from tests.conftest import picture

PICTURE = picture(48, 72, 1)
BACKENDS: dict[str, LoaderConfig] = {
    "torchcodec": NativeLoader(num_workers=0),
    "torchcodec-worker": NativeLoader(num_workers=1),
    "pillow": NativeLoader(num_workers=0, decoder="pillow"),
    "spdl": SpdlLoader(num_threads=2),
    "dali": DaliLoader(num_threads=1),
}


def write(folder: Path, kind: str) -> Path:
    """Writes the same picture as a file of this kind, and returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(PICTURE)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    path = folder / {"palette": "palette.png", "grey16": "grey16.png", "rgba": "rgba.png"}.get(kind, f"{kind}.jpg")
    match kind:
        case "grey":
            image.convert("L").save(path, quality=95)
        case "cmyk":
            image.convert("CMYK").save(path, quality=95)
        case "palette":
            image.convert("P").save(path)
        case "grey16":
            Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(path)
        case "rgba":
            image.putalpha(100)
            image.save(path)
        case "exif":
            image.save(path, quality=95, exif=exif)
        case "progressive":
            image.save(path, quality=95, progressive=True)
        case "plain":
            image.save(path, quality=95)
        case _:
            path = folder / f"plain.{kind}"
            options: dict[str, Any] = {"lossless": True} if kind == "webp" else {}
            image.save(path, **options)
    return path


def one(backend: str, root: Path, on_error: str = "error") -> torch.Tensor:
    spec = data.build(
        ImageFolderData(
            root=str(root),
            val_fraction=0.0,
            on_error=on_error,
            transform=TransformConfig(image_size=48, train_crop="center", flip=0.0),
        ),
        lambda *_: None,
    )
    loader = loaders.build(BACKENDS[backend], spec.train, EpochPlan(1, 1, False, False), Cpu())
    try:
        inputs: torch.Tensor = next(iter(loader.epoch(0))).inputs
        return inputs[0]
    finally:
        loader.close()


def test_dali_does_not_rotate_an_image_with_ambiguous_exif_data(tmp_path: Path) -> None:
    """nvImageCodec and OpenCV may disagree on damaged EXIF data, and one writes to memory that the other has allocated."""
    path = write(tmp_path / "damaged" / "ant", "exif")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"\x01\x12\x00\x03", b"\x01\x12\x00\x04"))  # LONG instead of SHORT
    assert path.read_bytes() != whole
    write(tmp_path / "plain" / "ant", "plain")
    assert torch.equal(one("dali", tmp_path / "damaged", "skip"), one("dali", tmp_path / "plain"))


@pytest.mark.parametrize(
    "kind", ["plain", "grey", "cmyk", "palette", "grey16", "rgba", "exif", "progressive", "png", "webp"]
)
@pytest.mark.parametrize("backend", ["torchcodec", "pillow", "dali"])
def test_every_kind_of_file_becomes_the_same_picture(backend: str, kind: str, tmp_path: Path) -> None:
    write(tmp_path / "only", kind)
    decoded = one(backend, tmp_path).float()
    expected = torch.from_numpy(PICTURE).permute(2, 0, 1).float()
    if kind in ("grey", "grey16"):
        expected = (expected * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0).expand(3, -1, -1)
    if kind == "exif":
        expected = expected.rot90(-1, (1, 2))
    if kind == "palette":
        expected = (
            torch.from_numpy(np.array(Image.fromarray(PICTURE).convert("P").convert("RGB"))).permute(2, 0, 1).float()
        )
    top, left = (expected.shape[1] - 48) // 2, (expected.shape[2] - 48) // 2
    assert (decoded - expected[:, top : top + 48, left : left + 48]).abs().mean() < 2.5


@pytest.mark.parametrize(
    ("backend", "kind"),
    [("pillow", "bmp"), ("pillow", "tiff"), ("pillow", "gif"), ("dali", "bmp"), ("dali", "tiff")],
)
def test_further_formats(backend: str, kind: str, tmp_path: Path) -> None:
    write(tmp_path / "only", kind)
    expected = torch.from_numpy(PICTURE[:, 12:60]).permute(2, 0, 1).float()
    assert (one(backend, tmp_path).float() - expected).abs().mean() < 12


@pytest.mark.parametrize(
    ("backend", "kind", "advice"),
    [("torchcodec", "bmp", "loader.decoder=pillow"), ("dali", "gif", "loader=native")],
)
def test_a_format_that_a_decoder_does_not_read_is_refused(backend: str, kind: str, advice: str, tmp_path: Path) -> None:
    write(tmp_path / "only", kind)
    with pytest.raises(LoaderError, match=advice) as refused:
        one(backend, tmp_path)
    assert f"plain.{kind}" in str(refused.value)


def spoiled(kind: str, folder: Path) -> bytes:
    """The bytes of a broken file. The intact file is written to the folder."""
    whole = Path(write(folder, "plain")).read_bytes()
    return {
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"not an image at all" * 20,
        "header": whole[:20],
    }[kind]


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "header", "gone"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_broken_file_is_named(backend: str, kind: str, own_tree: Path, tmp_path: Path) -> None:
    bad = own_tree / "bee" / "05.jpg"
    spec = data.build(
        ImageFolderData(root=str(own_tree), val_fraction=0.0, transform=TransformConfig(image_size=24)),
        lambda *_: None,
    )
    if kind == "gone":
        bad.unlink()
    else:
        bad.write_bytes(spoiled(kind, tmp_path / "whole"))
    loader = loaders.build(BACKENDS[backend], spec.train, EpochPlan(23, 4, True, False), Cpu())
    try:
        with pytest.raises(DataError) as named:
            list(loader.epoch(0))
    finally:
        loader.close()
    assert str(bad) in str(named.value)
    assert "cannot be decoded" in str(named.value)
    assert "\n" not in str(named.value)
    if kind == "empty":
        assert "0 bytes" in str(named.value)


def test_crop_windows_have_the_declared_distribution() -> None:
    spec = TransformSpec(size=8, random_crop=True, scale=(0.2, 0.5), ratio=(0.8, 1.25), resize=8, flip=0.0)
    rng = np.random.default_rng(0)
    windows = np.array([crop_window(300, 400, spec, rng.random((10, 4))) for _ in range(4000)])
    top, left, height, width = windows.T
    area, ratio = height * width / (300 * 400), width / height
    assert top.min() >= 0
    assert (top + height).max() <= 300
    assert (left + width).max() <= 400
    assert 0.19 < area.min() < area.max() < 0.51
    assert abs(area.mean() - 0.35) < 0.01  # uniform
    assert abs(np.log(ratio).mean()) < 0.01  # log-uniform around 1
    assert 0.79 < ratio.min() < ratio.max() < 1.26
    middle = (left + width / 2).mean()
    assert abs(middle - 200) < 4


def test_a_crop_that_never_fits_takes_the_centre() -> None:
    spec = TransformSpec(size=8, random_crop=True, scale=(0.99, 1.0), ratio=(0.9, 1.1), resize=8, flip=0.0)
    top, left, height, width = crop_window(100, 1000, spec, np.full((10, 4), 0.5))
    assert (top, height) == (0, 100)
    assert math.isclose(width / height, 1.1)
    assert left == (1000 - width) // 2


def test_pillow_and_torchcodec_give_the_same_pixels(image_tree: Path) -> None:
    for path in sorted((image_tree / "ant").iterdir()):
        encoded = np.fromfile(path, np.uint8)
        assert (decoder("pillow")(encoded) == decoder("torchcodec")(encoded)).all()


def test_a_missing_dali_is_reported(monkeypatch: pytest.MonkeyPatch, image_tree: Path) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    monkeypatch.setitem(sys.modules, "nvidia.dali.backend", None)
    for name in ("dali", "dali_graph", "dali_guard", "dali_single"):
        monkeypatch.delitem(sys.modules, f"loaderlab.loaders.{name}", raising=False)
        monkeypatch.delattr(loaders, name, raising=False)
    with pytest.raises(LoaderError, match="loader=dali: NVIDIA DALI is not installed here"):
        one("dali", image_tree)


def fails_to_load(name: str) -> Any:
    """What torchcodec 0.11 does on a machine without FFmpeg."""
    raise RuntimeError("Could not load libtorchcodec. Likely causes:\n  1. FFmpeg is not properly installed\n  2. …")


def test_a_torchcodec_without_image_decoders_is_reported(monkeypatch: pytest.MonkeyPatch, image_tree: Path) -> None:
    """torchcodec 0.11 is the version that was made for torch 2.11, but its decoders read only videos."""
    for older in (SimpleNamespace(VideoDecoder=object), ModuleType("torchcodec.decoders")):
        if isinstance(older, ModuleType):
            older.__getattr__ = fails_to_load  # type: ignore[method-assign]
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", older)
        with pytest.raises(
            UserError, match=r"^loader\.decoder=torchcodec: needs torchcodec 0\.16 or newer; installed is"
        ):
            one("torchcodec", image_tree)
        one("pillow", image_tree)


def test_a_missing_torchcodec_is_left_to_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.delitem(sys.modules, "torchcodec.decoders", raising=False)
    with pytest.raises(ModuleNotFoundError, match="torchcodec"):
        decoder("torchcodec")

"""Broken samples: named, or skipped in the same way by every loader. Also too many broken samples, and too large images."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loaderlab import data, loaders
from loaderlab.config import (
    DaliLoader,
    ImageFolderData,
    LoaderConfig,
    NativeLoader,
    ResidentLoader,
    SpdlLoader,
    TransformConfig,
)
from loaderlab.data.spec import DataError, OnError, Split
from loaderlab.device.cpu import Cpu
from loaderlab.device.cuda import Cuda
from loaderlab.loaders.broken import BrokenSamples
from loaderlab.loaders.contract import EpochPlan, Loader
from loaderlab.loaders.header import check_header, num_pixels
from loaderlab.loaders.resolve import DaliSettings
from tests.loaders.damage import DALI_CPU, DALI_MIXED, EITHER, HOST, as_bomb, expectation

LOADERS: dict[str, LoaderConfig] = {
    "native": NativeLoader(num_workers=0),
    "native-2-workers": NativeLoader(num_workers=2),
    "native-one-by-one": NativeLoader(num_workers=0, batched=False),
    "native-pillow": NativeLoader(num_workers=0, decoder="pillow"),
    "spdl": SpdlLoader(num_threads=2),
    "resident": ResidentLoader(),
    "dali": DaliLoader(num_threads=1),
}
PLAN = EpochPlan(23, 4, True, False, seed=3)


@pytest.fixture
def spoiled(own_tree: Path) -> list[Path]:
    """Breaks four of the 23 files: truncated, empty, not an image, a decompression bomb."""
    files = sorted(own_tree.rglob("*.jpg"))
    broken = [files[index] for index in (2, 7, 8, 20)]
    broken[0].write_bytes(broken[0].read_bytes()[:-400])
    broken[1].write_bytes(b"")
    broken[2].write_bytes(b"no image" * 50)
    broken[3].write_bytes(as_bomb(broken[3].read_bytes()))
    return broken


def split_of(tree: Path, on_error: str, max_skipped: float = 1.0) -> Split:
    config = ImageFolderData(
        root=str(tree),
        val_fraction=0.0,
        on_error=on_error,
        max_skipped=max_skipped,
        transform=TransformConfig(image_size=24, train_crop="center", flip=0.0),
    )
    return data.build(config, lambda *_: None).train


def one_epoch(config: LoaderConfig, split: Split) -> None:
    """Loads all batches of one epoch."""
    with contextlib.closing(loaders.build(config, split, PLAN, Cpu())) as built:
        list(built.epoch(0))


ON_CUDA = [
    pytest.param((name, "cuda"), marks=pytest.mark.gpu, id=f"{name}-cuda")  # `-k dali` selects by the id
    for name in ("native", "spdl", "resident", "dali")
]


@pytest.fixture(params=[*((name, "cpu") for name in LOADERS), *ON_CUDA])
def loader(request: pytest.FixtureRequest, own_tree: Path, spoiled: list[Path]) -> Iterator[Loader]:
    name, device = request.param
    target = Cuda() if device == "cuda" else Cpu()
    built = loaders.build(LOADERS[name], split_of(own_tree, "skip"), PLAN, target)
    yield built
    built.close()


def decoder_of(loader: Loader) -> str:
    """The column of `tests.loaders.damage.EXPECTED` that applies."""
    if not isinstance(loader.settings, DaliSettings):
        return HOST
    return DALI_MIXED if loader.settings.decode == "mixed" else DALI_CPU


def test_every_loader_skips_the_same_samples(loader: Loader, spoiled: list[Path]) -> None:
    """Every loader uses the same replacements, and batches keep their shapes. A GPU may decode the truncated file; then it does so
    in every batch."""
    epochs = [[loader.transfer(batch) for batch in loader.epoch(epoch)] for epoch in (0, 1)]
    broken = {2, 7, 8, 20}
    if expectation("a JPEG that ends too early", decoder_of(loader)) == EITHER and 2 not in loader.broken:
        broken = {7, 8, 20}
    for epoch, batches in enumerate(epochs):
        assert [len(batch) for batch in batches] == [4, 4, 4, 4, 4, 3]
        for batch, planned in zip(batches, PLAN.batches(epoch), strict=True):
            assert batch.ids is not None
            expected = [
                next(index for index in [*planned[at:], *planned[:at]] if index not in broken)
                for at in range(len(planned))
            ]
            assert batch.ids.tolist() == expected
            assert batch.inputs.shape == (len(batch), 3, 24, 24)
            assert all(
                (batch.inputs[at] == batch.inputs[expected.index(expected[at])]).all() for at in range(len(batch))
            )
    assert set(loader.broken) == broken
    for index, path in zip((2, 7, 8, 20), spoiled, strict=True):
        assert index not in broken or str(path) in loader.broken[index]
    assert "0 bytes" in loader.broken[7]
    assert "4,294,836,225 pixels are more than data.max_pixels=" in loader.broken[20]


@pytest.mark.parametrize("name", ["native-2-workers", "spdl", "resident", "dali"])
def test_too_many_are_refused(name: str, own_tree: Path, spoiled: list[Path]) -> None:
    with pytest.raises(
        DataError, match=r"data.max_skipped=0.1: [34] of 23 samples cannot be loaded.*type: data.max_skipped=0.(26|35)"
    ):
        one_epoch(LOADERS[name], split_of(own_tree, "skip", 0.1))


@pytest.mark.parametrize("name", ["native", "resident", "dali"])
def test_a_bomb_stops_the_run_by_default(name: str, own_tree: Path) -> None:
    bomb = sorted(own_tree.rglob("*.jpg"))[5]
    bomb.write_bytes(as_bomb(bomb.read_bytes()))
    with pytest.raises(DataError, match="decompression bomb") as refused:
        one_epoch(LOADERS[name], split_of(own_tree, "error"))
    assert str(bomb) in str(refused.value)


def test_a_batch_with_only_broken_samples_is_refused() -> None:
    broken = BrokenSamples(OnError(skip=True, max_skipped=1.0), 9)
    broken.add({3: "c.jpg: gone", 4: "d.jpg: gone"})
    assert broken.substituted(np.array([1, 3, 4, 2])).tolist() == [1, 2, 2, 2]
    assert broken.substituted(np.array([1, 2, 3])).tolist() == [1, 2, 1]
    with pytest.raises(DataError, match=r"none of the 2 samples of a batch can be loaded\. The first: d.jpg: gone"):
        broken.substituted(np.array([4, 3]))


@pytest.mark.parametrize("kind", ["baseline", "progressive", "exif", "png", "webp"])
def test_pixels_are_read_from_the_header(kind: str, tmp_path: Path) -> None:
    image, path = Image.new("RGB", (50, 30)), tmp_path / f"a.{kind if kind in ('png', 'webp') else 'jpg'}"
    exif = Image.Exif()
    exif[0x010E] = "x\xff\xc0" * 40  # a frame marker inside another segment
    options: dict[str, dict[str, Any]] = {"progressive": {"progressive": True}, "exif": {"exif": exif}}
    image.save(path, **options.get(kind, {}))
    encoded = np.fromfile(path, np.uint8)
    assert num_pixels(encoded)[0] == 1500
    if path.suffix == ".jpg":
        junk = np.concatenate([encoded[:2], np.array([0xFF, 0xFF, 0xFF, 0xD8, 7, 7], np.uint8), encoded[2:]])
        assert num_pixels(junk)[0] == 1500  # libjpeg skips it too
        assert num_pixels(encoded[:12])[0] == 0


def test_a_header_with_more_pixels_than_the_bytes_can_encode_is_refused(tmp_path: Path) -> None:
    """An empty picture is within the bound; the same file with a larger height in its header is not."""
    Image.new("L", (1024, 1024)).save(tmp_path / "a.jpg", optimize=True, quality=1)
    encoded = np.fromfile(tmp_path / "a.jpg", np.uint8)
    check_header(encoded, 10**9)
    at = encoded.tobytes().find(b"\xff\xc0")
    encoded[at + 5] = 0xF0
    with pytest.raises(DataError, match="more than its .* bytes can encode"):
        check_header(encoded, 10**9)

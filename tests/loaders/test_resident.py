"""A set on its device: the same pixels as torch on a CPU, exact in any precision. A set that does not fit is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from loaderlab import data, loaders
from loaderlab.config import ImageFolderData, ResidentLoader, TransformConfig, VectorsData
from loaderlab.data.spec import DataError, Split
from loaderlab.device.cpu import Cpu
from loaderlab.loaders.contract import EpochPlan, Loader, LoaderError
from loaderlab.loaders.resample import axis_weights, resample, split_weights

CPU = Cpu()


def files(root: Path) -> Split:
    transform = TransformConfig(image_size=24, train_crop="center", flip=0.0)
    return data.build(ImageFolderData(root=str(root), val_fraction=0.0, transform=transform), lambda *_: None).train


def made(split: Split) -> Loader:
    return loaders.build(ResidentLoader(), split, EpochPlan(split.num_samples or 0, 4, False, False), CPU)


WINDOWS = [  # top, left, height, width of a crop of 60 x 90 pixels, and the size after resizing
    (0, 0, 60, 90, 24),
    (3, 7, 24, 24, 24),
    (11, 20, 9, 5, 24),
    (50, 80, 10, 10, 4),
    (1, 0, 59, 13, 37),
]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("top", "left", "height", "width", "size"), WINDOWS)
def test_products_resize_like_torch(top: int, left: int, height: int, width: int, size: int, flip: bool) -> None:
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 60, 90), np.uint8))
    window = image[:, :, top : top + height, left : left + width]
    expected = F.interpolate(window, size=(size, size), mode="bilinear", antialias=True)
    rows = axis_weights(torch.tensor([[top, height, size, 0]]), None, size, 60)
    columns = axis_weights(torch.tensor([[left, width, size, 0]]), torch.tensor([flip]), size, 90)
    resized = resample(image.transpose(1, 2).contiguous(), rows, columns)
    assert resized.is_contiguous(memory_format=torch.channels_last)
    difference = (resized.int() - (expected.flip(-1) if flip else expected).int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 1e-3


def test_weights_are_exact_in_tf32() -> None:
    """TF32 keeps 10 bits after the leading one of each factor, so the lowest 13 bits of a float32 must be zero."""
    windows = torch.tensor([[0, 500, 224, 0], [13, 77, 224, 0], [0, 375, 37, 5]])
    weights = axis_weights(windows, None, 32, 500)
    for part in split_weights(weights):
        assert (part.view(torch.int32) & 0x1FFF == 0).all()
    first, second = split_weights(weights)
    assert (first + second == weights).all()
    assert torch.allclose(weights.sum(-1), torch.ones(3, 32), atol=1e-3)


def test_a_file_with_a_rotated_image_is_stored_upright(own_tree: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(own_tree / "ant" / "00.jpg") as image:
        image.resize((300, 60)).save(own_tree / "ant" / "00.jpg", exif=exif)
    assert sum(len(batch) for batch in made(files(own_tree)).epoch(0)) == 23


@pytest.mark.parametrize("spoiled", [b"", b"\xff\xd8 and then nothing of an image"])
def test_a_broken_file_is_named_before_training(spoiled: bytes, own_tree: Path) -> None:
    (own_tree / "bee" / "05.jpg").write_bytes(spoiled)
    with pytest.raises(DataError, match="05.jpg: cannot be decoded"):
        made(files(own_tree))


def test_a_truncated_file_is_named_before_training(own_tree: Path) -> None:
    path = own_tree / "bee" / "05.jpg"
    path.write_bytes(path.read_bytes()[:-400])  # the header still has the size
    with pytest.raises(DataError, match="05.jpg: cannot be decoded"):
        made(files(own_tree))


def test_a_set_that_does_not_fit_is_refused_with_numbers(image_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def free(gib: float) -> None:
        monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=gib * 2**30))

    free(0.001)
    with pytest.raises(
        LoaderError,
        match=r"23 samples need 0.0\d+ GiB, each padded to \d+ x \d+ pixels; cpu has 0.001 GiB free, .* Type: loader=native",
    ):
        made(files(image_tree))
    free(1)
    loader: Any = made(files(image_tree))
    assert loader.settings.samples_mib > 1
    loader.close()
    assert loader._inputs is None


def test_data_with_work_on_each_sample_is_refused() -> None:
    vectors = data.build(VectorsData(num_samples=20, num_features=3, num_classes=2, work=1), lambda *_: None).train
    with pytest.raises(LoaderError, match=r"data.work=1 .* Type: loader=native, or data.work=0"):
        made(vectors)

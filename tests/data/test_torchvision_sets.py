"""CIFAR-10 and MNIST, from small files of the same format, and the error if there are none."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from loaderlab import data, loaders
from loaderlab.config import Cifar10Data, DaliLoader, LoaderConfig, MnistData, NativeLoader, TransformConfig
from loaderlab.data.spec import DataError, ImageArrays
from loaderlab.device.cpu import Cpu
from loaderlab.loaders.contract import EpochPlan

GREY = TransformConfig(image_size=28, mean=[0.1307], std=[0.3081], train_crop="center", flip=0.0)
COLOUR = TransformConfig(image_size=32, train_crop="center", flip=0.0)


def write_mnist(root: Path) -> np.ndarray:
    """Writes six training and two test images as IDX files, as torchvision stores them, and returns the images."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (8, 28, 28), dtype=np.uint8)
    for prefix, part in (("train", images[:6]), ("t10k", images[6:])):
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 0x803, len(part), 28, 28) + part.tobytes()
        )
        labels = bytes(range(len(part)))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, len(part)) + labels)
        for name in ("images-idx3", "labels-idx1"):
            path = raw / f"{prefix}-{name}-ubyte"
            Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
    return images


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Writes two images per batch file, pickled like the originals (checksums are not checked), and returns the images."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rows = np.random.default_rng(0).integers(0, 256, (12, 3072), dtype=np.uint8)
    for index, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        content = {"data": rows[2 * index : 2 * index + 2], "labels": [index, index + 1]}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class{n}" for n in range(10)]}))
    monkeypatch.setattr(CIFAR10, "train_list", [[f"data_batch_{n}", None] for n in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", None]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": None})
    return rows.reshape(12, 3, 32, 32)


@pytest.mark.parametrize("config", [NativeLoader(num_workers=0), DaliLoader(num_threads=1)], ids=["native", "dali"])
def test_mnist_from_files_of_its_format(config: LoaderConfig, tmp_path: Path) -> None:
    images = write_mnist(tmp_path)
    spec = data.build(MnistData(root=str(tmp_path), transform=GREY), lambda *_: None)
    assert isinstance(spec.train.source, ImageArrays)
    assert spec.sample_shape == (1, 28, 28)
    assert len(spec.classes) == 10
    loader = loaders.build(config, spec.train, EpochPlan(6, 4, False, False), Cpu())
    batches = list(loader.epoch(0))
    loader.close()
    assert (torch.cat([batch.inputs for batch in batches]) == torch.from_numpy(images[:6])[:, None]).all()
    assert torch.cat([batch.targets for batch in batches]).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("config", [NativeLoader(num_workers=0), DaliLoader(num_threads=1)], ids=["native", "dali"])
def test_cifar10_from_files_of_its_format(
    config: LoaderConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write_cifar(tmp_path, monkeypatch)
    spec = data.build(Cifar10Data(root=str(tmp_path), download=False, transform=COLOUR), lambda *_: None)
    assert spec.val is not None
    assert (spec.train.num_samples, spec.val.num_samples, spec.classes[0]) == (10, 2, "class0")
    loader = loaders.build(config, spec.train, EpochPlan(10, 4, False, False), Cpu())
    batches = list(loader.epoch(0))
    loader.close()
    assert (torch.cat([batch.inputs for batch in batches]) == torch.from_numpy(images[:10])).all()
    assert torch.cat([batch.targets for batch in batches]).tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5]


@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize(("kind", "transform"), [(MnistData, GREY), (Cifar10Data, COLOUR)])
def test_missing_files_without_a_network_are_reported(
    kind: type, transform: TransformConfig, download: bool, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="could not be downloaded") as refused:
        data.build(kind(root=str(tmp_path), download=download, transform=transform), lambda *_: None)
    assert ("Check the network" if download else "Type: data.download=true") in str(refused.value)
    assert "\n" not in str(refused.value)


def test_there_must_be_one_mean_per_channel(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 channel"):
        data.build(MnistData(root=str(tmp_path), transform=COLOUR), lambda *_: None)

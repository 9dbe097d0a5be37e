"""CIFAR-10 and MNIST as arrays in memory. torchvision downloads and checks the files."""

from __future__ import annotations

from urllib.error import URLError

import numpy as np

from loaderlab.config import Cifar10Data, TorchvisionData
from loaderlab.data.spec import UINT8, DataError, DataSpec, ImageArrays, Split, transforms
from loaderlab.system.causes import reason


def build(config: TorchvisionData) -> DataSpec:
    """The spec of the training and test set as (N, H, W, C) uint8 arrays: 32x32 RGB for CIFAR-10, 28x28 grey for MNIST.

    Raises:
        DataError: the files are missing and cannot be downloaded, or the number of means differs from that of channels.
    """
    from torchvision.datasets import CIFAR10, MNIST

    kind = CIFAR10 if isinstance(config, Cifar10Data) else MNIST
    channels = 3 if isinstance(config, Cifar10Data) else 1
    if len(config.transform.mean) != channels:
        raise DataError(
            f"data.transform.mean={config.transform.mean}: {kind.__name__} has {channels} channel(s), so mean and std "
            f"need {channels} number(s) each"
        )
    train_transform, val_transform, normalization = transforms(config.transform)

    def split(train: bool) -> tuple[ImageArrays, tuple[str, ...]]:
        try:
            data = kind(config.root, train=train, download=config.download)
        except (RuntimeError, OSError, URLError) as error:
            advice = "Check the network" if config.download else "Type: data.download=true"
            raise DataError(
                f"data={kind.__name__.lower()} data.root={config.root}: the files are not there and could not be "
                f"downloaded ({reason(error)}). {advice}, or put torchvision's files there"
            ) from error
        images: UINT8 = np.ascontiguousarray(np.asarray(data.data, dtype=np.uint8))
        images = images.reshape(*images.shape[:3], channels)
        return ImageArrays(images, np.asarray(data.targets, np.int64)), tuple(data.classes)

    train, classes = split(True)
    val, _ = split(False)
    size = config.transform.image_size
    return DataSpec(
        name=str(config.name),
        train=Split(train, train_transform, normalization),
        val=Split(val, val_transform, normalization),
        classes=classes,
        sample_shape=(channels, size, size),
        sample_dtype="uint8" if normalization.on_device else "float32",
        location=str(config.root),
        digest=f"{kind.__name__.lower()}-{len(train)}-{len(val)}",
    )

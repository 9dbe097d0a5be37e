"""What the samples are. `build` turns a configuration into a `DataSpec`; nothing here knows how samples are loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from loaderlab.config import (
    CustomData,
    DataConfig,
    DigitsData,
    EncodedData,
    ImageFolderData,
    PhotosData,
    TorchvisionData,
    VectorsData,
    WebDatasetData,
)
from loaderlab.data.spec import DataSpec, OnError


def build(
    config: DataConfig, on_progress: Callable[[int, int | None], None], *, whole_batches: bool = False
) -> DataSpec:
    """The samples that a configuration describes. Prepares them on disk first if necessary.

    Args:
        config: the configuration.
        on_progress: called with (files done, files in total) during the preparation; the total is None if unknown.
        whole_batches: ``TrainConfig.has_whole_batches``.

    Raises:
        DataError: the message names the file or the setting, and says what to do.
    """
    if isinstance(config, CustomData):
        from loaderlab.data import custom

        return custom.build(config, whole_batches=whole_batches)
    spec = _build(config, on_progress)
    if not isinstance(config, EncodedData):
        return spec
    on_error = OnError(config.on_error == "skip", config.max_skipped, config.max_pixels)
    val = replace(spec.val, on_error=on_error) if spec.val is not None else None
    return replace(spec, train=replace(spec.train, on_error=on_error), val=val)


def _build(config: DataConfig, on_progress: Callable[[int, int | None], None]) -> DataSpec:
    match config:
        case DigitsData():
            from loaderlab.data import digits

            return digits.build(config, on_progress)
        case PhotosData():
            from loaderlab.data import photos

            return photos.build(config, on_progress)
        case ImageFolderData():
            from loaderlab.data import imagefolder

            val_root = Path(config.val_root) if config.val_root else None
            return imagefolder.build(
                "imagefolder",
                Path(config.root),
                val_root,
                config.val_fraction,
                config.split_seed,
                config.transform,
                on_progress,
            )
        case WebDatasetData():
            from loaderlab.data import webdataset

            return webdataset.build(config, on_progress)
        case VectorsData():
            from loaderlab.data import vectors

            return vectors.build(config)
        case TorchvisionData():
            from loaderlab.data import torchvision_sets

            return torchvision_sets.build(config)
    raise AssertionError(config)

"""Settings of the samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from loaderlab.config.base import LARGEST_SEED, MISSING, refuse, setting

MAX_PIXELS = 178_956_970  # Pillow's limit: half a GiB of RGB
JPEG_PX = 65_500  # libjpeg's limit for the height and width of a file
PHOTO_PX = 51_000  # lower than JPEG_PX, since some photos are larger by a factor of 1.28


@dataclass
class TransformConfig:
    """How a decoded image becomes a sample. All loaders implement it in the same way."""

    image_size: int = setting(64, "height and width of a sample, pixels", at_least=8)
    train_crop: str = setting(
        "random_resized",
        "training crop: random_resized, or center for no augmentation",
        choices=("random_resized", "center"),
    )
    scale: list[float] = setting([0.08, 1.0], "random_resized: range of the crop's area, as share of the image")
    ratio: list[float] = setting([0.75, 1.3333], "random_resized: range of the crop's width / height")
    flip: float = setting(0.5, "probability of a horizontal flip in training", at_least=0)
    resize: int | None = setting(
        None, "center: length of the shorter side before the crop, pixels (null: image_size)", at_least=8, example=256
    )
    mean: list[float] = setting([0.485, 0.456, 0.406], "mean per channel, subtracted after scaling to 0..1")
    std: list[float] = setting([0.229, 0.224, 0.225], "standard deviation per channel, divided by after that")
    normalize_on: str = setting(
        "device",
        "where uint8 becomes normalized float32: on the device, or in the loader",
        choices=("device", "loader"),
    )

    def __post_init__(self) -> None:
        for name in ("scale", "ratio"):
            bounds = getattr(self, name)
            if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1]:
                raise refuse(
                    f"data.transform.{name}",
                    bounds,
                    "must be two positive numbers, the smaller first",
                    f"'data.transform.{name}=[0.5,1.0]'",
                )
        if self.scale[1] > 1:
            raise refuse(
                "data.transform.scale",
                self.scale,
                "is a share of the image and must be at most 1",
                "'data.transform.scale=[0.5,1.0]'",
            )
        if self.flip > 1:
            raise refuse(
                "data.transform.flip", self.flip, "is a probability and must be 0 to 1", "data.transform.flip=0.5"
            )
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3) or min(self.std, default=0) <= 0:
            raise refuse(
                "data.transform.mean/std",
                f"{self.mean}/{self.std}",
                "need one number per channel (1 or 3), with std above 0",
                "'data.transform.mean=[0.5,0.5,0.5]' 'data.transform.std=[0.5,0.5,0.5]'",
            )
        if self.resize is not None and self.resize < self.image_size:
            raise refuse(
                "data.transform.resize",
                self.resize,
                f"must be at least image_size ({self.image_size})",
                f"data.transform.resize={self.image_size}",
            )


@dataclass
class DataConfig:
    """The data set. It does not depend on a loader."""

    name: ClassVar[str] = "data"
    images: ClassVar[bool] = True

    @property
    def known_train_samples(self) -> int | None:
        """The number of training samples, if the settings alone decide it."""
        return None


@dataclass
class EncodedData(DataConfig):
    """Samples that are encoded images, some of which may be broken."""

    on_error: str = setting(
        "error",
        "if an image cannot be decoded: error stops the run, skip replaces it with another sample of its batch",
        choices=("error", "skip"),
    )
    max_skipped: float = setting(
        0.01, "skip: the run stops if more than this share of a split's samples is skipped", at_least=0
    )
    max_pixels: int = setting(
        MAX_PIXELS,
        "images with more pixels are treated as decompression bombs and not decoded",
        at_least=1,
        at_most=LARGEST_SEED,
    )

    def __post_init__(self) -> None:
        if self.max_skipped > 1:
            raise refuse("data.max_skipped", self.max_skipped, "is a share and must be 0 to 1", "data.max_skipped=0.01")


@dataclass
class DigitsData(EncodedData):
    """Handwritten digits from scikit-learn, written as JPEG files."""

    name: ClassVar[str] = "digits"
    root: str = setting("data/digits", "folder under which the JPEG tree is written")
    image_px: int = setting(160, "height and width of the JPEG files, pixels", at_least=8, at_most=JPEG_PX)
    subsampling: str = setting(
        "444", "chroma subsampling of the JPEG files: 444, or 420 as in most photos", choices=("444", "420")
    )
    quality: int = setting(90, "JPEG quality, 1 to 95", at_least=1)
    transform: TransformConfig = setting(TransformConfig, "image to sample")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quality > 95:
            raise refuse("data.quality", self.quality, "must be 1 to 95", "data.quality=90")


@dataclass
class PhotosData(EncodedData):
    """Generated pictures with ImageNet's size and entropy."""

    name: ClassVar[str] = "photos"
    root: str = setting("data/photos", "folder under which the JPEG tree is written")
    num_files: int = setting(2_000, "training files; validation has 4 % of that, at least one per class", at_least=2)
    num_classes: int = setting(1_000, "number of classes", at_least=2)
    width_px: int = setting(
        500, "width of most files, pixels; some are portrait, some larger or smaller", at_least=32, at_most=PHOTO_PX
    )
    height_px: int = setting(375, "height of most files, pixels", at_least=32, at_most=PHOTO_PX)
    data_seed: int = setting(0, "seed for generating the pictures", at_least=0, at_most=LARGEST_SEED)
    transform: TransformConfig = setting(TransformConfig, "image to sample")

    @property
    def known_train_samples(self) -> int:
        """Every file is a sample."""
        return self.num_files

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_files < self.num_classes:
            raise refuse(
                "data.num_files",
                self.num_files,
                f"must be at least data.num_classes ({self.num_classes}): one file per class",
                f"data.num_files={self.num_classes}, or data.num_classes={max(2, self.num_files // 20)}",
            )


@dataclass
class ImageFolderData(EncodedData):
    """Your own images, in one folder per class."""

    name: ClassVar[str] = "imagefolder"
    root: str = setting(MISSING, "folder of the training samples, with one subfolder per class")
    val_root: str | None = setting(None, "folder of the validation samples; null: a random split of root")
    val_fraction: float = setting(
        0.2, "share of each class that is used for validation if val_root is null", at_least=0
    )
    split_seed: int = setting(0, "seed of that split", at_least=0, at_most=LARGEST_SEED)
    transform: TransformConfig = setting(TransformConfig, "image to sample")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.val_fraction < 1:
            raise refuse(
                "data.val_fraction",
                self.val_fraction,
                "is a share and must be at least 0 and below 1",
                "data.val_fraction=0.2",
            )


@dataclass
class WebDatasetData(EncodedData):
    """Your own images in WebDataset tar files."""

    name: ClassVar[str] = "webdataset"
    shards: str = setting(
        MISSING, "training tar files: a folder, a shell pattern, or a range: '/path/train-{000..146}.tar'"
    )
    val_shards: str | None = setting(None, "validation tar files; null: some of the files of shards")
    val_fraction: float = setting(
        0.1, "share of the files that is used for validation if val_shards is null", at_least=0
    )
    split_seed: int = setting(0, "seed of that split", at_least=0, at_most=LARGEST_SEED)
    image_keys: str = setting("jpg jpeg png webp", "extensions of a sample's image; the first one that exists is used")
    label_key: str = setting("cls", "extension of a sample's label: a class index as text, from 0")
    shuffle_block: int = setting(
        2048,
        "number of consecutive samples that are shuffled together; the order of the files is shuffled too",
        at_least=1,
    )
    transform: TransformConfig = setting(TransformConfig, "image to sample")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.val_fraction < 1:
            raise refuse(
                "data.val_fraction",
                self.val_fraction,
                "is a share and must be at least 0 and below 1",
                "data.val_fraction=0.1",
            )


@dataclass
class VectorsData(DataConfig):
    """Generated vectors in memory."""

    name: ClassVar[str] = "vectors"
    images: ClassVar[bool] = False
    num_samples: int = setting(60_000, "training samples; validation has a sixth of that", at_least=12)
    num_features: int = setting(784, "length of a sample, float32", at_least=1)
    num_classes: int = setting(10, "number of classes", at_least=2)
    work: int = setting(0, "passes of CPU work per sample in the loader (sort, then scale); 0: none", at_least=0)
    data_seed: int = setting(0, "seed for generating the samples", at_least=0, at_most=LARGEST_SEED)

    @property
    def known_train_samples(self) -> int:
        """Every vector is a sample."""
        return self.num_samples


@dataclass
class TorchvisionData(DataConfig):
    """A data set of torchvision."""

    root: str = setting("data", "folder of torchvision's files")
    download: bool = setting(True, "let torchvision download missing files")
    transform: TransformConfig = setting(TransformConfig, "image to sample")


@dataclass
class Cifar10Data(TorchvisionData):
    name: ClassVar[str] = "cifar10"


@dataclass
class MnistData(TorchvisionData):
    name: ClassVar[str] = "mnist"


@dataclass
class CustomData(DataConfig):
    """Your own dataset object.

    With ``model.step``, or with ``collate`` on an emulated accelerator, its items may be anything: ``collate(items)`` makes a batch of
    the list of items, any nesting of dicts, lists, tuples, named tuples and dataclasses with tensors and other values. ``count(batch)``
    returns the number of its samples. Both run where the batch is built, in a worker.
    """

    name: ClassVar[str] = "custom"
    target: str = setting(MISSING, "package.module:function that returns a dataset, or a (train, val) pair")
    options: dict[str, Any] = setting({}, "keyword arguments for the function")
    input_key: str | None = setting(None, "key of the input if items are dicts")
    target_key: str | None = setting(None, "key of the target if items are dicts")
    num_classes: int | None = setting(None, "number of classes if the dataset has no `classes`", at_least=1, example=10)
    collate: str | None = setting(
        None,
        "package.module:function, called as collate(items): it returns a batch for model.step; null: torch's default_collate",
    )
    count: str | None = setting(
        None,
        "package.module:function, called as count(batch): it returns the number of samples in a batch for model.step; null: the number "
        "of items",
    )
    sharded: bool = setting(
        False,
        "the iterable dataset splits itself by get_worker_info, and with several ranks by RANK and WORLD_SIZE of the environment, so "
        "that several workers are allowed",
    )

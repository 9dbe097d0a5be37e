"""A description of the samples. Every loader builds the same batches from it, and it does not depend on any loader."""

from __future__ import annotations

import abc
import contextlib
import functools
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from loaderlab.config import MAX_PIXELS, TransformConfig, UserError
from loaderlab.data.file_bytes import bytes_of_file
from loaderlab.data.paths import PathTable

UINT8 = npt.NDArray[np.uint8]
INT64 = npt.NDArray[np.int64]
FLOAT32 = npt.NDArray[np.float32]


class DataError(UserError):
    """The samples do not match the configuration: a folder is missing, a class is empty, a file does not decode."""


@dataclass(frozen=True)
class TransformSpec:
    """From a decoded image to a sample of shape (C, size, size), uint8.

    Attributes:
        random_crop: random resized crop (area ``scale``, aspect ``ratio``); otherwise resize and centre crop.
        resize: length of the shorter side before the centre crop, pixels.
        flip: probability of a horizontal flip.
    """

    size: int
    random_crop: bool
    scale: tuple[float, float]
    ratio: tuple[float, float]
    resize: int
    flip: float


@dataclass(frozen=True)
class Normalization:
    """uint8 0..255 to float32: ``(x / 255 - mean) / std`` per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    on_device: bool


@dataclass(frozen=True)
class Blocks:
    """An order for samples in tar files: the files in random order, each read from start to end, and then a permutation
    within every block of ``size`` samples. Reading stays sequential except within a block. Samples of one file stay close
    together, which a permutation of all samples does not give.

    Attributes:
        ends: (shards,) one past the last sample id of each file; ids count through the files in order.
        size: samples per block.
    """

    ends: INT64
    size: int

    def shuffled(self, rng: np.random.Generator) -> INT64:
        """A random order of this kind, (N,): every id once."""
        starts = np.concatenate([[0], self.ends[:-1]])
        shards = rng.permutation(len(self.ends))
        order = np.concatenate([np.arange(starts[shard], self.ends[shard]) for shard in shards])
        return order[np.argsort(np.arange(len(order)) // self.size + rng.random(len(order)))]


class EncodedImages(abc.ABC):
    """Encoded images with one label each. They are decoded to RGB."""

    labels: INT64

    def __len__(self) -> int:
        return len(self.labels)

    @abc.abstractmethod
    def name(self, index: int) -> str:
        """The sample's name in messages: a path."""

    @abc.abstractmethod
    def files(self, ids: INT64) -> list[str]:
        """The files that contain these samples, each once."""

    @abc.abstractmethod
    def read(self, index: int) -> UINT8:
        """The encoded bytes.

        Raises:
            OSError: the file cannot be read.
        """

    @abc.abstractmethod
    def take(self, ids: INT64) -> EncodedImages:
        """Only the samples with these ids."""


@dataclass(frozen=True)
class ImageFiles(EncodedImages):
    """Images with one file per sample."""

    paths: PathTable
    labels: INT64

    def name(self, index: int) -> str:
        return self.paths[index]

    def files(self, ids: INT64) -> list[str]:
        return [self.paths[index] for index in np.unique(ids).tolist()]

    def read(self, index: int) -> UINT8:
        return bytes_of_file(self.paths[index])

    def take(self, ids: INT64) -> ImageFiles:
        return ImageFiles(self.paths.take(ids), self.labels[ids])


@dataclass(frozen=True)
class TarImages(EncodedImages):
    """Members of tar files, ordered by shard and by position in the shard.

    Attributes:
        shards: paths of the tar files.
        shard: (N,) index of each sample's tar file, ascending.
        offsets, sizes: (N,) position of its encoded bytes in that file.
    """

    shards: tuple[str, ...]
    shard: INT64
    offsets: INT64
    sizes: INT64
    labels: INT64

    def name(self, index: int) -> str:
        path, offset = self.shards[self.shard[index]], self.offsets[index]
        name = None
        with contextlib.suppress(OSError, tarfile.TarError), tarfile.open(path) as tar:
            # read only for messages: storing every name would take memory
            name = next((member.name for member in tar if member.offset_data == offset), None)
        return f"{path}: {name or f'byte {offset}'}"

    def files(self, ids: INT64) -> list[str]:
        return [self.shards[index] for index in np.unique(self.shard[ids]).tolist()]

    def read(self, index: int) -> UINT8:
        size, offset = int(self.sizes[index]), int(self.offsets[index])
        return bytes_of_file(self.shards[self.shard[index]], offset, size)

    def take(self, ids: INT64) -> TarImages:
        return TarImages(self.shards, self.shard[ids], self.offsets[ids], self.sizes[ids], self.labels[ids])


@dataclass(frozen=True)
class OnError:
    """What happens if an image does not decode.

    Attributes:
        skip: continue with another sample of the batch instead; otherwise the run stops.
        max_skipped: share of a split's samples; if more are skipped, the run stops.
        max_pixels: of an image (of all its frames together); a larger image counts as not decodable.
    """

    skip: bool = False
    max_skipped: float = 0.01
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True)
class ImageArrays:
    """Decoded images in memory: ``images`` (N, H, W, C) uint8."""

    images: UINT8
    labels: INT64

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Vectors:
    """Vectors in memory: ``inputs`` (N, F) float32. ``work``: passes of per-sample work, see `loaderlab.data.vectors`."""

    inputs: FLOAT32
    labels: INT64
    work: int = 0

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Collation:
    """How whole batches of a user's own task are made.

    Attributes:
        collate: called with the list of items; returns a batch.
        count: called with a batch; returns the number of its samples. None: the number of items.
        collate_name, count_name: the settings with their values, for messages.
    """

    collate: Callable[[list[Any]], Any]
    count: Callable[[Any], Any] | None
    collate_name: str
    count_name: str = ""


@dataclass(frozen=True)
class UserItems:
    """A user's own dataset. Its items are used unchanged: pairs, or dicts with these keys; or anything, with a ``collation``."""

    dataset: Any
    iterable: bool
    input_key: str | None
    target_key: str | None
    num_classes: int
    sharded: bool = False
    collation: Collation | None = None

    @functools.cached_property
    def length(self) -> int | None:
        """The dataset's ``__len__``, called once; None if it has none. An iterable dataset may yield more or fewer samples
        than that."""
        try:
            return len(self.dataset)
        except (TypeError, NotImplementedError):  # torch recommends these to datasets without a length
            return None

    def __len__(self) -> int:
        assert self.length is not None, "an iterable dataset without a length has no ids"
        return self.length


Source = EncodedImages | ImageArrays | Vectors | UserItems


@dataclass(frozen=True)
class Split:
    """The samples of training or of validation, and how each is transformed. ``blocks`` is set for samples that are read in
    the order of tar files."""

    source: Source
    transform: TransformSpec | None = None
    normalization: Normalization | None = None
    on_error: OnError = OnError()
    blocks: Blocks | None = None

    @property
    def num_samples(self) -> int | None:
        """None for an iterable dataset that does not know its length."""
        return self.source.length if isinstance(self.source, UserItems) else len(self.source)

    @property
    def num_claimed(self) -> bool:
        """Whether `num_samples` is the ``__len__`` of an iterable dataset, which may yield more or fewer samples."""
        return isinstance(self.source, UserItems) and self.source.iterable

    @property
    def whole_batches(self) -> bool:
        """Whether a batch is what a user's collate function returns."""
        return isinstance(self.source, UserItems) and self.source.collation is not None

    @property
    def in_memory(self) -> bool:
        return isinstance(self.source, (ImageArrays, Vectors))

    @property
    def ready_in_memory(self) -> bool:
        """Whether the samples are in memory and need no work one by one."""
        return self.in_memory and not (isinstance(self.source, Vectors) and self.source.work)


@dataclass(frozen=True)
class DataSpec:
    """The description of a run's samples.

    Attributes:
        sample_shape: of one input in a batch: (C, H, W), (F,), or the shape of a user's items; () with `whole_batches`.
        sample_dtype: dtype of one input, as torch names it; empty with `whole_batches`.
        digest: identifies the set by its names and labels, not by every byte.
        notes: skipped entries and other remarks for the user, one line each.
    """

    name: str
    train: Split
    val: Split | None
    classes: tuple[str, ...]
    sample_shape: tuple[int, ...]
    sample_dtype: str
    location: str
    digest: str
    notes: tuple[str, ...] = field(default=())

    @property
    def whole_batches(self) -> bool:
        """Whether a batch is what a user's collate function returns, so that neither shapes nor classes are known."""
        return self.train.whole_batches


def transforms(config: TransformConfig) -> tuple[TransformSpec, TransformSpec, Normalization]:
    """The training transform, the validation transform and the normalisation of a configuration."""
    common = {
        "size": config.image_size,
        "scale": (config.scale[0], config.scale[1]),
        "ratio": (config.ratio[0], config.ratio[1]),
        "resize": config.resize or config.image_size,
    }
    train = TransformSpec(random_crop=config.train_crop == "random_resized", flip=config.flip, **common)  # type: ignore[arg-type]
    val = TransformSpec(random_crop=False, flip=0.0, **common)  # type: ignore[arg-type]
    return train, val, Normalization(tuple(config.mean), tuple(config.std), config.normalize_on == "device")

"""What the samples are, as a declaration: every loader builds the same batches from it, and it knows no loader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from loaderlab.config import TransformConfig, UserError

UINT8 = npt.NDArray[np.uint8]
INT64 = npt.NDArray[np.int64]
FLOAT32 = npt.NDArray[np.float32]


class DataError(UserError):
    """The samples are not what was declared: a folder is missing, a class is empty, a file does not decode."""


class PathTable:
    """File paths in one flat buffer: memory does not grow when worker processes touch it, as a list of str would.

    Args:
        root: what the paths are relative to.
        paths: relative paths, in the order of the sample ids.
    """

    def __init__(self, root: Path, paths: Sequence[str]) -> None:
        encoded = [path.encode() for path in paths]
        self.root = root
        self._buffer: UINT8 = np.frombuffer(b"".join(encoded), np.uint8)
        self._ends: INT64 = np.cumsum([len(path) for path in encoded], dtype=np.int64)
        self._prefix = str(root).encode() + b"/"

    def __len__(self) -> int:
        return len(self._ends)

    def encoded(self, index: int) -> bytes:
        """Absolute path as UTF-8 bytes."""
        start = int(self._ends[index - 1]) if index else 0
        return self._prefix + self._buffer[start : int(self._ends[index])].tobytes()

    def __getitem__(self, index: int) -> str:
        return self.encoded(index).decode()


@dataclass(frozen=True)
class TransformSpec:
    """From a decoded image to a sample of shape (C, size, size), uint8.

    Attributes:
        random_crop: random resized crop (area ``scale``, aspect ``ratio``), else resize and centre crop.
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
class ImageFiles:
    """Encoded image files with one label each; they become RGB."""

    paths: PathTable
    labels: INT64

    def __len__(self) -> int:
        return len(self.labels)


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
class UserItems:
    """A user's own dataset, its items used as they are: pairs, or dicts with these keys."""

    dataset: Any
    iterable: bool
    input_key: str | None
    target_key: str | None
    num_classes: int
    sharded: bool = False

    @property
    def length(self) -> int | None:
        try:
            return len(self.dataset)
        except TypeError:
            return None

    def __len__(self) -> int:
        assert self.length is not None, "an iterable dataset without a length has no ids"
        return self.length


Source = ImageFiles | ImageArrays | Vectors | UserItems


@dataclass(frozen=True)
class Split:
    """The samples of training or of validation, and what is done to each."""

    source: Source
    transform: TransformSpec | None = None
    normalization: Normalization | None = None

    @property
    def num_samples(self) -> int | None:
        """None for an iterable dataset that does not know its length."""
        return self.source.length if isinstance(self.source, UserItems) else len(self.source)

    @property
    def in_memory(self) -> bool:
        return isinstance(self.source, (ImageArrays, Vectors))

    @property
    def at_hand(self) -> bool:
        """In memory, and no work is to be done on each sample by itself."""
        return self.in_memory and not (isinstance(self.source, Vectors) and self.source.work)


@dataclass(frozen=True)
class DataSpec:
    """All that a run knows of its samples.

    Attributes:
        sample_shape: of one input as it comes in a batch: (C, H, W), (F,), or what a user's dataset gives.
        sample_dtype: of the same, by torch's name.
        digest: tells two different sets apart (of names and labels, not of every byte).
        notes: what was left out or is worth knowing, one line each.
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


def transforms(config: TransformConfig) -> tuple[TransformSpec, TransformSpec, Normalization]:
    """The training transform, the validation transform and the normalisation that a declaration stands for."""
    common = {
        "size": config.image_size,
        "scale": (config.scale[0], config.scale[1]),
        "ratio": (config.ratio[0], config.ratio[1]),
        "resize": config.resize or config.image_size,
    }
    train = TransformSpec(random_crop=config.train_crop == "random_resized", flip=config.flip, **common)  # type: ignore[arg-type]
    val = TransformSpec(random_crop=False, flip=0.0, **common)  # type: ignore[arg-type]
    return train, val, Normalization(tuple(config.mean), tuple(config.std), config.normalize_on == "device")

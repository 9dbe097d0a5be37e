"""WebDataset tar files: each sample has an image member and a label member with the same base name.

Every loader reads them by position (shard, offset, size), in the same order: see `Blocks`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection, Sequence
from glob import glob
from pathlib import Path

import numpy as np

from loaderlab.config import WebDatasetData, refuse
from loaderlab.data import shardindex
from loaderlab.data.spec import INT64, Blocks, DataError, DataSpec, Split, TarImages, transforms

LISTED = 3  # members that a message names


def build(config: WebDatasetData, on_progress: Callable[[int, int], None]) -> DataSpec:
    """The spec of a set of tar files. Without ``data.val_shards``, whole files are reserved for validation.

    Raises:
        DataError: there are no such files, one is not a tar file, or a sample has no image or class.
    """
    train_shards = find("data.shards", config.shards)
    if config.val_shards is not None:
        val_shards = find("data.val_shards", config.val_shards)
    else:
        num_val = min(len(train_shards) - 1, max(1, round(len(train_shards) * config.val_fraction)))
        val_indices = (
            np.random.default_rng(config.split_seed).permutation(len(train_shards))[:num_val]
            if config.val_fraction
            else ()
        )
        val_shards = [train_shards[index] for index in sorted(val_indices)]
        train_shards = [path for path in train_shards if path not in val_shards]
    total = len(train_shards) + len(val_shards)
    train = images(train_shards, config, lambda done: on_progress(done, total))
    val = images(val_shards, config, lambda done: on_progress(len(train_shards) + done, total)) if val_shards else None
    num_classes = int(train.labels.max()) + 1
    if val is not None and val.labels.max() >= num_classes:
        raise DataError(
            f"data.val_shards={config.val_shards}: contains class {val.labels.max()}, but training has only the classes 0 to "
            f"{num_classes - 1}"
        )
    train_transform, val_transform, normalization = transforms(config.transform)
    ends = np.cumsum(np.bincount(train.shard, minlength=len(train.shards)))
    size = config.transform.image_size
    digest = hashlib.sha256()
    for part in (train, val) if val is not None else (train,):
        digest.update(
            "\n".join(map(os.path.basename, part.shards)).encode() + part.labels.tobytes() + part.sizes.tobytes()
        )
    return DataSpec(
        name="webdataset",
        train=Split(train, train_transform, normalization, blocks=Blocks(ends.astype(np.int64), config.shuffle_block)),
        val=Split(val, val_transform, normalization) if val is not None else None,
        classes=tuple(map(str, range(num_classes))),
        sample_shape=(3, size, size),
        sample_dtype="uint8" if normalization.on_device else "float32",
        location=config.shards,
        digest=digest.hexdigest()[:16],
        notes=_notes([*train.shards, *(val.shards if val is not None else ())]),
    )


def _notes(shards: Sequence[str]) -> tuple[str, ...]:
    """One line if a file is named twice, by links or in both training and validation."""
    if not (again := len(shards) - len(set(shards))):
        return ()
    return (
        f"{again} of {len(shards)} tar files are named twice, by symbolic links or in both data.shards and data.val_shards, so "
        "their samples are listed twice",
    )


def find(setting: str, pattern: str) -> list[str]:
    """The tar files of a folder, of a shell pattern or of numbered braces (``train-{000..146}.tar``).

    Raises:
        DataError: there are no such files, or a numbered file is missing.
    """
    braces = re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", pattern)
    if braces is not None:
        before, first, last, after = braces.groups()
        files = [f"{before}{number:0{len(first)}d}{after}" for number in range(int(first), int(last) + 1)]
        missing = [path for path in files if not os.path.isfile(path)]
        if missing:
            raise DataError(
                f"{setting}={pattern}: {len(missing)} of {len(files)} files are missing, the first: {missing[0]}"
            )
    else:
        files = sorted(glob(os.path.join(pattern, "*.tar") if os.path.isdir(pattern) else pattern))
        files = [path for path in files if not path.endswith(".idx")]  # indexes are next to their tar files
    if not files:
        override = f"{setting}=/path/to/folder, or '{setting}=/path/train-{{000..146}}.tar'"
        raise refuse(setting, pattern, "there is no tar file", override, error=DataError)
    return [str(Path(path).resolve()) for path in files]


def images(shards: Sequence[str], config: WebDatasetData, on_shard: Callable[[int], None]) -> TarImages:
    """The images of these tar files with their labels."""
    columns: list[tuple[INT64, INT64, INT64]] = []
    for number, (path, index) in enumerate(zip(shards, shardindex.paths(shards), strict=True)):
        columns.append(shard(path, index, config.image_keys.split(), config.label_key))
        on_shard(number + 1)
    offsets, sizes, labels = (np.concatenate(part) for part in zip(*columns, strict=True))
    counts = [len(part[0]) for part in columns]
    return TarImages(tuple(shards), np.repeat(np.arange(len(shards)), counts), offsets, sizes, labels)


def shard(path: str, index: Path, image_keys: Sequence[str], label_key: str) -> tuple[INT64, INT64, INT64]:
    """Offset, size and label of each sample of one tar file, in order; ``index`` is the path of its index.

    Raises:
        DataError: a sample lacks a member, or its label is not a number. The message names the file and the sample.
    """
    rows: list[tuple[int, int, int]] = []
    with open(path, "rb") as file:
        for position, members in enumerate(shardindex.members(path, index)):
            where = f"{path}: sample {position}"
            image = next((members[key] for key in image_keys if key in members), None)
            if image is None or label_key not in members:
                lacks = f"no label {label_key}" if image is not None else f"none of the images {', '.join(image_keys)}"
                raise DataError(
                    f"{where} has {_listed(members)}, but {lacks}. Type for example: data.label_key=cls 'data.image_keys=jpg png'"
                )
            offset, size = members[label_key]
            file.seek(offset)
            label = file.read(size)
            if not label.strip().isdigit():
                raise DataError(f"{where}: its {label_key} is {label[:20]!r}; a class index is needed, counted from 0")
            rows.append((*image, int(label)))
    if not rows:
        raise DataError(f"{path}: contains no sample. Remove it from data.shards")
    offsets, sizes, labels = np.array(rows, np.int64).T
    return offsets, sizes, labels


def _listed(extensions: Collection[str]) -> str:
    """The first few extensions of a sample, and the number of the others. Only names with several dots give many."""
    text = ", ".join(list(extensions)[:LISTED])
    if len(extensions) <= LISTED:
        return text
    return f"{text} and {len(extensions) - LISTED} more members (an extension begins at the first dot of a name)"

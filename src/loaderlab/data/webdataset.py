"""WebDataset tar files: each sample an image member and a label member of the same base name.

They are read by place (shard, offset, size), by every loader in the same way and in the same order: see `Blocks`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tarfile
from collections.abc import Callable, Sequence
from glob import glob
from pathlib import Path

import numpy as np

from loaderlab.config import WebDatasetData, refuse
from loaderlab.data.spec import INT64, Blocks, DataError, DataSpec, Split, TarImages, transforms
from loaderlab.system.files import atomic_file

INDEX_VERSIONS = {"v1.1": 3, "v1.2": 4}  # of DALI's wds2idx: words that each member has in its line


def build(config: WebDatasetData, on_progress: Callable[[int, int], None]) -> DataSpec:
    """The spec of a set of tar files; whole files are held back for validation where it has none of its own.

    Raises:
        DataError: no such files, or one that is no tar file, or a sample without image or class.
    """
    train_shards = find("data.shards", config.shards)
    if config.val_shards is not None:
        val_shards = find("data.val_shards", config.val_shards)
    else:
        num_val = min(len(train_shards) - 1, max(1, round(len(train_shards) * config.val_fraction)))
        held = (
            np.random.default_rng(config.split_seed).permutation(len(train_shards))[:num_val]
            if config.val_fraction
            else ()
        )
        val_shards = [train_shards[index] for index in sorted(held)]
        train_shards = [path for path in train_shards if path not in val_shards]
    total = len(train_shards) + len(val_shards)
    train = images(train_shards, config, lambda done: on_progress(done, total))
    val = images(val_shards, config, lambda done: on_progress(len(train_shards) + done, total)) if val_shards else None
    num_classes = int(train.labels.max()) + 1
    if val is not None and val.labels.max() >= num_classes:
        raise DataError(
            f"data.val_shards={config.val_shards}: holds class {val.labels.max()}, and training has classes 0 to "
            f"{num_classes - 1} only"
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
    )


def find(setting: str, pattern: str) -> list[str]:
    """The tar files that a folder, a shell pattern or numbered braces (``train-{000..146}.tar``) stand for.

    Raises:
        DataError: there are none, or one of the numbered ones is missing.
    """
    braces = re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", pattern)
    if braces is not None:
        before, first, last, after = braces.groups()
        found = [f"{before}{number:0{len(first)}d}{after}" for number in range(int(first), int(last) + 1)]
        missing = [path for path in found if not os.path.isfile(path)]
        if missing:
            raise DataError(
                f"{setting}={pattern}: {len(missing)} of {len(found)} files are missing, the first: {missing[0]}"
            )
    else:
        found = sorted(glob(os.path.join(pattern, "*.tar") if os.path.isdir(pattern) else pattern))
    if not found:
        override = f"{setting}=/path/to/folder, or '{setting}=/path/train-{{000..146}}.tar'"
        raise refuse(setting, pattern, "no tar file there", override, error=DataError)
    return [str(Path(path).resolve()) for path in found]


def images(shards: Sequence[str], config: WebDatasetData, on_shard: Callable[[int], None]) -> TarImages:
    """Where the samples of these tar files lie, and their labels."""
    found: list[tuple[INT64, INT64, INT64]] = []
    for number, path in enumerate(shards):
        found.append(shard(path, config.image_keys.split(), config.label_key))
        on_shard(number + 1)
    offsets, sizes, labels = (np.concatenate(part) for part in zip(*found, strict=True))
    counts = [len(part[0]) for part in found]
    return TarImages(tuple(shards), np.repeat(np.arange(len(shards)), counts), offsets, sizes, labels)


def shard(path: str, image_keys: Sequence[str], label_key: str) -> tuple[INT64, INT64, INT64]:
    """Offset, size and label of each sample of one tar file, in its order.

    Raises:
        DataError: naming the file, and the sample that lacks a member or whose label is no number.
    """
    rows: list[tuple[int, int, int]] = []
    with open(path, "rb") as file:
        for position, members in enumerate(indexed(path)):
            where = f"{path}: sample {position} of it"
            image = next((members[key] for key in image_keys if key in members), None)
            if image is None or label_key not in members:
                lacks = f"no label {label_key}" if image is not None else f"none of the images {', '.join(image_keys)}"
                raise DataError(
                    f"{where} has {', '.join(members)} and {lacks}. Type for example: data.label_key=cls 'data.image_keys=jpg png'"
                )
            offset, size = members[label_key]
            file.seek(offset)
            label = file.read(size)
            if not label.strip().isdigit():
                raise DataError(f"{where}: its {label_key} is {label[:20]!r}; a class index is needed, counted from 0")
            rows.append((*image, int(label)))
    if not rows:
        raise DataError(f"{path}: holds no sample. Take it out of data.shards")
    offsets, sizes, labels = np.array(rows, np.int64).T
    return offsets, sizes, labels


def indexed(path: str) -> list[dict[str, tuple[int, int]]]:
    """The samples of a tar file: by extension, the offset and size of each member.

    The index that DALI's ``wds2idx`` writes is read where it lies beside the tar file; else one is made of its headers
    and left there, which DALI's own reader takes as well.
    """
    index = Path(path[: path.find(".", path.rfind("/") + 2)] + ".idx")
    if index.exists() and index.stat().st_mtime_ns >= os.stat(path).st_mtime_ns:
        return read_index(index, os.path.getsize(path))
    samples = scanned(path)
    text = "".join(
        " ".join(f"{key} {offset} {size}" for key, (offset, size) in members.items()) + "\n" for members in samples
    )
    with contextlib.suppress(OSError), atomic_file(index) as partial:  # a read-only folder: scanned again each time
        partial.write_text(f"v1.1 {len(samples)}\n{text}", encoding="utf-8", errors="surrogateescape")
    return samples


def read_index(index: Path, tar_bytes: int) -> list[dict[str, tuple[int, int]]]:
    """Raises:
    DataError: it is no index, or of another tar file.
    """
    try:
        head, *lines = index.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        version, count = head.split()
        words = INDEX_VERSIONS[version]
        samples = []
        for line in lines:
            parts = line.split()
            samples.append({parts[at]: (int(parts[at + 1]), int(parts[at + 2])) for at in range(0, len(parts), words)})
        ends = [offset + size for members in samples for offset, size in members.values()]
        if len(samples) != int(count) or max(ends, default=0) > tar_bytes:
            raise ValueError("it does not fit the tar file")
    except (ValueError, KeyError, IndexError) as error:
        raise DataError(f"{index}: not the index of its tar file: {error}. Remove it: it is made anew") from error
    return samples


def scanned(path: str) -> list[dict[str, tuple[int, int]]]:
    """The same by the tar file's own headers. Members of one sample follow each other (as WebDataset has it)."""
    samples: list[dict[str, tuple[int, int]]] = []
    last = None
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                base, _, extension = name.partition(".")
                if not member.isreg() or not base:
                    continue
                if (folder, base) != last:
                    samples.append({})
                    last = (folder, base)
                samples[-1][extension] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{path}: not a whole, uncompressed tar file: {error}") from error
    return samples

"""Folder-per-class trees of image files: listed in sorted order, split by seed where there is no validation root."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loaderlab.config import TransformConfig
from loaderlab.data.spec import INT64, DataError, DataSpec, ImageFiles, PathTable, Split, transforms

#: what any of the decoders reads; each loader refuses those that its own does not
EXTENSIONS = frozenset(
    ".jpg .jpeg .jpe .png .webp .avif .gif .bmp .tif .tiff .ppm .pgm .pbm .pnm .jp2".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Listing:
    """The image files under one root, relative paths, class by class, and how many other files were passed over."""

    root: Path
    classes: tuple[str, ...]
    paths: list[str]
    labels: INT64
    others: int


def list_folder(root: Path, setting: str) -> Listing:
    """Lists a tree with one sub-folder a class; files at any depth below a class belong to it.

    Args:
        root: the folder.
        setting: the override that named it, for messages.

    Raises:
        DataError: no such folder, no class, a class without images, or a tree that holds splits and not classes.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DataError(
            f"{setting}={root}: this folder {what}. Give a folder with one sub-folder a class: {setting}=/path"
        )
    root = root.resolve()
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise DataError(f"{setting}={root}: holds no sub-folder; one a class is needed, with its images in it")
    if set(classes) <= {"train", "val", "valid", "validation", "test"} and "train" in classes:
        others = [name for name in classes if name != "train"]
        second = f" data.val_root={root / others[0]}" if others else ""
        raise DataError(
            f"{setting}={root}: holds the splits {', '.join(classes)}, which would be taken for classes. "
            f"Type: data.root={root / 'train'}{second}"
        )
    paths: list[str] = []
    labels: list[int] = []
    passed_over = 0
    for label, name in enumerate(classes):
        before = len(paths)
        for folder, subfolders, files in os.walk(root / name, followlinks=True):
            subfolders.sort()
            for file in sorted(files):
                if not _is_utf8(os.path.join(folder, file)):
                    raise DataError(f"{setting}={root}: the file name {file!a} is not UTF-8. Rename it")
                if os.path.splitext(file)[1].lower() in EXTENSIONS:
                    paths.append(os.path.relpath(os.path.join(folder, file), root))
                else:
                    passed_over += 1
        if len(paths) == before:
            raise DataError(
                f"{setting}={root}: the class folder {name} holds no image ({' '.join(sorted(EXTENSIONS))}). "
                "Put images into it or remove it"
            )
        labels += [label] * (len(paths) - before)
    return Listing(root, tuple(classes), paths, np.array(labels, np.int64), passed_over)


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def stratified_split(labels: INT64, fraction: float, seed: int) -> tuple[INT64, INT64]:
    """Ids for training and for validation: the same share of every class, drawn by seed, in ascending order.

    A class keeps at least one sample for training; where ``fraction`` is above 0 and a class has two samples or
    more, at least one goes to validation.
    """
    rng = np.random.default_rng(seed)
    held: list[INT64] = []
    for label in np.unique(labels):
        ids = rng.permutation(np.flatnonzero(labels == label))
        count = min(len(ids) - 1, max(1, round(len(ids) * fraction))) if fraction > 0 else 0
        held.append(ids[:count])
    val = np.sort(np.concatenate(held)).astype(np.int64)
    return np.setdiff1d(np.arange(len(labels), dtype=np.int64), val), val


def build(
    name: str,
    root: Path,
    val_root: Path | None,
    val_fraction: float,
    split_seed: int,
    transform: TransformConfig,
) -> DataSpec:
    """The spec of a tree, with a tree of its own for validation or a seeded split.

    Raises:
        DataError: see `list_folder`; or the two trees have different classes.
    """
    listing = list_folder(root, "data.root")
    notes = []
    if val_root is not None:
        held = list_folder(val_root, "data.val_root")
        if held.classes != listing.classes:
            differing = sorted(set(held.classes) ^ set(listing.classes))
            raise DataError(
                f"data.val_root={val_root}: its classes differ from those of data.root={root}: "
                f"{', '.join(differing[:10])} stand in one of the two only"
            )
        train_paths, train_labels = listing.paths, listing.labels
        val_paths, val_labels, val_base = held.paths, held.labels, held.root
        passed_over = listing.others + held.others
    else:
        kept, out = stratified_split(listing.labels, val_fraction, split_seed)
        train_paths, train_labels = [listing.paths[i] for i in kept], listing.labels[kept]
        val_paths, val_labels, val_base = [listing.paths[i] for i in out], listing.labels[out], listing.root
        passed_over = listing.others
    if passed_over:
        notes.append(f"{passed_over} files under data.root are no images by their ending and were passed over")
    train, val, normalization = transforms(transform)
    digest = hashlib.sha256("\n".join([*train_paths, "", *val_paths, "", *listing.classes]).encode()).hexdigest()
    return DataSpec(
        name=name,
        train=Split(ImageFiles(PathTable(listing.root, train_paths), train_labels), train, normalization),
        val=Split(ImageFiles(PathTable(val_base, val_paths), val_labels), val, normalization) if val_paths else None,
        classes=listing.classes,
        sample_shape=(3, transform.image_size, transform.image_size),
        sample_dtype="uint8" if normalization.on_device else "float32",
        location=str(listing.root),
        digest=digest[:16],
        notes=tuple(notes),
    )

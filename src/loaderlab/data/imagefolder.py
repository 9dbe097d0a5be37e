"""Folder-per-class trees of image files, listed in sorted order, and split by seed if there is no validation root."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loaderlab.config import TransformConfig
from loaderlab.data import treecache
from loaderlab.data.paths import PathTable
from loaderlab.data.spec import INT64, DataError, DataSpec, ImageFiles, Split, transforms
from loaderlab.data.tree import Tree, scan


@dataclass(frozen=True)
class Listing:
    """The image files of a tree, and a note for the user if the list could not be cached."""

    root: Path
    tree: Tree
    note: str | None = None

    @property
    def files(self) -> ImageFiles:
        return ImageFiles(PathTable(self.root, self.tree.arrays, self.tree.endings), self.tree.labels)


def list_folder(root: Path, setting: str, on_progress: Callable[[int, int | None], None]) -> Listing:
    """The list of a tree with one sub-folder per class. Files at any depth below a class folder belong to that class;
    hidden files and folders are skipped. The list is cached and reused until the tree changes.

    Args:
        root: the folder.
        setting: the setting that gave the folder, for messages.
        on_progress: called with (files listed, None) while the tree is read.

    Raises:
        DataError: there is no such folder, no class, or a class without images; the sub-folders are splits, not
            classes; a link leads back up; a file name is not UTF-8; or a folder cannot be read.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DataError(
            f"{setting}={root}: this folder {what}. Give a folder with one sub-folder per class: {setting}=/path"
        )
    root = root.resolve()
    if (cached := treecache.load(root)) is not None:
        return Listing(root, cached)
    tree = scan(root, setting, on_progress)
    try:
        return Listing(root, treecache.store(root, tree))
    except OSError as error:
        return Listing(
            root,
            tree,
            f"the file list of {setting} could not be cached under {treecache.folder()} ({error.strerror}), so the folder is "
            "listed again at each start. Set XDG_CACHE_HOME to a writable folder",
        )


def stratified_split(labels: INT64, fraction: float, seed: int) -> tuple[INT64, INT64]:
    """Ids for training and for validation, in ascending order: the same share of every class, drawn by seed.

    Each class keeps at least one sample for training. If ``fraction`` is above 0, each class with two or more samples
    gives at least one to validation.
    """
    rng = np.random.default_rng(seed)
    order = np.argsort(labels, kind="stable")  # class by class, ascending ids within each
    starts = np.flatnonzero(np.diff(labels[order])) + 1
    is_val = np.zeros(len(labels), bool)
    for members in np.split(order, starts):
        ids = rng.permutation(members)
        count = min(len(ids) - 1, max(1, round(len(ids) * fraction))) if fraction > 0 else 0
        is_val[ids[:count]] = True
    return np.flatnonzero(~is_val), np.flatnonzero(is_val)


def build(
    name: str,
    root: Path,
    val_root: Path | None,
    val_fraction: float,
    split_seed: int,
    transform: TransformConfig,
    on_progress: Callable[[int, int | None], None],
) -> DataSpec:
    """The spec of a tree. Validation samples come from a second tree or from a seeded split.

    Raises:
        DataError: see `list_folder`; also if the two trees have different classes.
    """
    listing = list_folder(root, "data.root", on_progress)
    listings, files = [listing], listing.files
    if val_root is not None:
        num_files = len(files)
        val_listing = list_folder(val_root, "data.val_root", lambda done, _total: on_progress(num_files + done, None))
        if val_listing.tree.classes != listing.tree.classes:
            differing = sorted(set(val_listing.tree.classes) ^ set(listing.tree.classes))
            raise DataError(
                f"data.val_root={val_root}: its classes differ from those of data.root={root}. "
                f"Only one of the two has: {', '.join(differing[:10])}"
            )
        listings.append(val_listing)
        train_files, val_files = files, val_listing.files
        split_identity = val_listing.tree.digest.encode()
    else:
        train_ids, val_ids = stratified_split(files.labels, val_fraction, split_seed)
        train_files, val_files = files.take(train_ids), files.take(val_ids)
        split_identity = val_ids.tobytes()
    notes = _notes([each.tree for each in listings])
    notes += [each.note for each in listings if each.note is not None]
    train, val, normalization = transforms(transform)
    return DataSpec(
        name=name,
        train=Split(train_files, train, normalization),
        val=Split(val_files, val, normalization) if len(val_files) else None,
        classes=tuple(listing.tree.classes),
        sample_shape=(3, transform.image_size, transform.image_size),
        sample_dtype="uint8" if normalization.on_device else "float32",
        location=str(listing.root),
        digest=hashlib.sha256(listing.tree.digest.encode() + split_identity).hexdigest()[:16],
        notes=tuple(notes),
    )


def _notes(trees: Sequence[Tree]) -> list[str]:
    """One line for each kind of skipped entry, and one for folders that are listed twice."""
    notes = []
    if others := sum(tree.others for tree in trees):
        notes.append(f"{others} files under data.root were skipped: they have no image extension")
    if hidden := sum(tree.hidden for tree in trees):
        notes.append(f"{hidden} hidden folders and files under data.root were skipped: their names begin with a dot")
    if repeated := [name for tree in trees for name in tree.repeated]:
        notes.append(
            f"{len(repeated)} folders under data.root are reached twice through symbolic links, so their samples are listed "
            f"twice and may be in training and validation: {', '.join(repeated[:3])}{', ...' * (len(repeated) > 3)}"
        )
    return notes

"""Folder-per-class trees of image files: listed in sorted order, split by seed where there is no validation root."""

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
    """The image files of a tree, and a remark on how they were listed, if there is one."""

    root: Path
    tree: Tree
    note: str | None = None

    @property
    def files(self) -> ImageFiles:
        return ImageFiles(PathTable(self.root, self.tree.arrays, self.tree.endings), self.tree.labels)


def list_folder(root: Path, setting: str, on_progress: Callable[[int, int | None], None]) -> Listing:
    """Lists a tree with one sub-folder a class; files at any depth below a class belong to it, hidden ones
    excepted. The list is kept, and
    taken from there as long as the tree does not change.

    Args:
        root: the folder.
        setting: the override that named it, for messages.
        on_progress: called with (files listed, None) while the tree is read.

    Raises:
        DataError: no such folder, no class, a class without images, a tree that holds splits and not classes, a link
            that leads back up, a file name that is not UTF-8, or a folder that cannot be read.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DataError(
            f"{setting}={root}: this folder {what}. Give a folder with one sub-folder a class: {setting}=/path"
        )
    root = root.resolve()
    if (kept := treecache.load(root)) is not None:
        return Listing(root, kept)
    tree = scan(root, setting, on_progress)
    try:
        return Listing(root, treecache.store(root, tree))
    except OSError as error:
        return Listing(
            root,
            tree,
            f"the list of {setting} could not be kept under {treecache.folder()} ({error.strerror}): it is made anew "
            "at each start. Set XDG_CACHE_HOME to a folder that can be written",
        )


def stratified_split(labels: INT64, fraction: float, seed: int) -> tuple[INT64, INT64]:
    """Ids for training and for validation: the same share of every class, drawn by seed, in ascending order.

    A class keeps at least one sample for training; where ``fraction`` is above 0 and a class has two samples or
    more, at least one goes to validation.
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
    """The spec of a tree, with a tree of its own for validation or a seeded split.

    Raises:
        DataError: see `list_folder`; or the two trees have different classes.
    """
    listing = list_folder(root, "data.root", on_progress)
    listings, files = [listing], listing.files
    if val_root is not None:
        num_files = len(files)
        held = list_folder(val_root, "data.val_root", lambda done, _total: on_progress(num_files + done, None))
        if held.tree.classes != listing.tree.classes:
            differing = sorted(set(held.tree.classes) ^ set(listing.tree.classes))
            raise DataError(
                f"data.val_root={val_root}: its classes differ from those of data.root={root}: "
                f"{', '.join(differing[:10])} stand in one of the two only"
            )
        listings.append(held)
        train_files, val_files = files, held.files
        told_apart_by = held.tree.digest.encode()
    else:
        kept, out = stratified_split(files.labels, val_fraction, split_seed)
        train_files, val_files = files.take(kept), files.take(out)
        told_apart_by = out.tobytes()
    notes = _notes([found.tree for found in listings])
    notes += [found.note for found in listings if found.note is not None]
    train, val, normalization = transforms(transform)
    return DataSpec(
        name=name,
        train=Split(train_files, train, normalization),
        val=Split(val_files, val, normalization) if len(val_files) else None,
        classes=tuple(listing.tree.classes),
        sample_shape=(3, transform.image_size, transform.image_size),
        sample_dtype="uint8" if normalization.on_device else "float32",
        location=str(listing.root),
        digest=hashlib.sha256(listing.tree.digest.encode() + told_apart_by).hexdigest()[:16],
        notes=tuple(notes),
    )


def _notes(trees: Sequence[Tree]) -> list[str]:
    """One line for each kind of entry that was skipped, and for what is listed twice."""
    notes = []
    if passed_over := sum(tree.others for tree in trees):
        notes.append(f"{passed_over} files under data.root are no images by their ending and were passed over")
    if hidden := sum(tree.hidden for tree in trees):
        notes.append(f"{hidden} hidden folders and files under data.root were skipped: their names begin with a dot")
    if repeated := [name for tree in trees for name in tree.repeated]:
        notes.append(
            f"{len(repeated)} folders under data.root are reached twice by symbolic links, so their samples are listed twice "
            f"and may be in training and validation: {', '.join(repeated[:3])}{', ...' * (len(repeated) > 3)}"
        )
    return notes

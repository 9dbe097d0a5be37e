"""What a folder-per-class tree holds. One pass over its folders, no look at its files; and how to see later that it
is still the same."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loaderlab.data.arrayfile import Array
from loaderlab.data.paths import PathPacker, ending
from loaderlab.data.spec import INT64, DataError

#: what any of the decoders reads; each loader refuses those that its own does not
EXTENSIONS = frozenset(
    ".jpg .jpeg .jpe .png .webp .avif .gif .bmp .tif .tiff .ppm .pgm .pbm .pnm .jp2".split()  # noqa: SIM905
)
SPLITS = {"train", "val", "valid", "validation", "test"}  # names of folders that are no classes
RACY_NS = 2_000_000_000  # the coarsest time stamp of a file system in use (FAT)
UNKNOWN = (0, 0, 0)  # no folder's stamp: it will not be found unchanged


@dataclass(frozen=True)
class Tree:
    """The image files under one root, class by class.

    Attributes:
        classes: names of the class folders, sorted.
        endings: of the files, by their code in ``kinds``.
        others: number of files that are no images by their ending.
        folders: of the tree, relative to the root.
        digest: of classes and paths.
        arrays: of `loaderlab.data.paths.PathPacker`; ``counts`` (C,) int64, files of each class; ``stamps`` (F, 3) int64,
            of each folder.
    """

    classes: Sequence[str]
    endings: Sequence[str]
    others: int
    folders: Sequence[str]
    digest: str
    arrays: Mapping[str, Array]

    @property
    def labels(self) -> INT64:
        """(N,) int64, the class of each file."""
        return np.repeat(np.arange(len(self.classes), dtype=np.int64), self.arrays["counts"])

    def unchanged(self, root: Path) -> bool:
        """Whether no folder has changed since: adding, removing or renaming an entry changes the time of its folder."""
        try:
            found = [_stamp(os.path.join(root, folder)) for folder in self.folders]
        except OSError:
            return False
        return np.array_equal(found, self.arrays["stamps"])


def _stamp(folder: str) -> tuple[int, int, int]:
    """What tells one state of a folder from another. With the time of its inode, which nobody can put back: `rsync -a`
    and `tar` set the other one to what it was elsewhere. Without the device's number, which differs from node to node."""
    found = os.stat(folder)
    return found.st_ino % 2**63, found.st_mtime_ns, found.st_ctime_ns


def scan(root: Path, setting: str, on_progress: Callable[[int, int | None], None]) -> Tree:
    """Lists a tree; see `loaderlab.data.imagefolder.list_folder` for the arguments and what is refused."""
    walk, packer = _Walk(root, setting), PathPacker()
    classes = [name for name in walk.enter("")[0] if not name.startswith(".")]
    _refuse_no_classes(classes, root, setting)
    counts, others = [], 0
    for name in classes:
        before, pending = len(packer), [name]
        while pending:
            folder = pending.pop()
            subfolders, files = walk.enter(folder)
            pending += [f"{folder}/{subfolder}" for subfolder in reversed(subfolders)]
            for file in files:
                if (kind := ending(file)) in EXTENSIONS:
                    packer.add(f"{folder}/{file}", kind)
                else:
                    others += 1
        counts.append(len(packer) - before)
        if not counts[-1]:
            raise DataError(
                f"{setting}={root}: the class folder {name} holds no image ({' '.join(sorted(EXTENSIONS))}). "
                "Put images into it or remove it"
            )
        on_progress(len(packer) + others, None)
    arrays = packer.arrays() | {"counts": np.array(counts, np.int64), "stamps": np.array(walk.stamps, np.int64)}
    digest = hashlib.sha256("\n".join(classes).encode())
    for part in ("counts", "bounds", "text"):
        digest.update(arrays[part].data)
    return Tree(classes, packer.endings, others, walk.folders, digest.hexdigest(), arrays)


class _Walk:
    """Enters folders one by one and remembers how each was found."""

    def __init__(self, root: Path, setting: str) -> None:
        self._root, self._setting = root, setting
        self._began_ns = time.time_ns()
        self.folders: list[str] = []
        self.stamps: list[tuple[int, int, int]] = []

    def enter(self, folder: str) -> tuple[list[str], list[str]]:
        """Names of the sub-folders and of the files, each sorted; links are followed."""
        path = os.path.join(self._root, folder)
        try:
            stamp = _stamp(path)  # first: what changes from here on makes another stamp
            subfolders, files, lost = _entries(path)
        except OSError as error:
            raise DataError(f"{self._setting}={self._root}: cannot read the folder {path}: {error.strerror}") from error
        self._refuse_other_encodings(path, files)
        # changed just now, a folder could change once more and carry the same time; a link that leads nowhere could
        # one day lead to a folder, which no folder of the tree would show
        racy = max(stamp[1:]) > self._began_ns - RACY_NS
        self.folders.append(folder)
        self.stamps.append(UNKNOWN if racy or lost else stamp)
        return subfolders, files

    def _refuse_other_encodings(self, path: str, files: Sequence[str]) -> None:
        if _is_utf8("".join([path, *files])):
            return
        for file in files:
            if not _is_utf8(path + file):
                raise DataError(f"{self._setting}={self._root}: the file name {file!a} is not UTF-8. Rename it")


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _entries(path: str) -> tuple[list[str], list[str], bool]:
    """Names of sub-folders and of files, each sorted, and whether there is a link that leads nowhere."""
    folders: list[str] = []
    files: list[str] = []
    lost = False
    with os.scandir(path) as entries:
        for entry in entries:
            try:
                is_folder = entry.is_dir()
                lost |= entry.is_symlink() and not is_folder and not entry.is_file()
            except OSError:  # a link in a circle, or to where we may not look
                is_folder, lost = False, True
            (folders if is_folder else files).append(entry.name)
    return sorted(folders), sorted(files), lost


def _refuse_no_classes(classes: Sequence[str], root: Path, setting: str) -> None:
    if not classes:
        raise DataError(f"{setting}={root}: holds no sub-folder; one a class is needed, with its images in it")
    if set(classes) <= SPLITS and "train" in classes:
        others = [name for name in classes if name != "train"]
        second = f" data.val_root={root / others[0]}" if others else ""
        raise DataError(
            f"{setting}={root}: holds the splits {', '.join(classes)}, which would be taken for classes. "
            f"Type: data.root={root / 'train'}{second}"
        )

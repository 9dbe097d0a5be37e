"""Lists a folder-per-class tree in one pass over its folders, and checks later whether it has changed.

Folders and files whose names begin with a dot are skipped. Symbolic links are followed: a link that leads back up is refused,
and folders that are reached twice are counted."""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loaderlab.config import refuse
from loaderlab.data.arrayfile import Array
from loaderlab.data.paths import PathPacker, ending
from loaderlab.data.spec import INT64, DataError

#: the formats that at least one decoder reads; each loader refuses those that its own decoder does not read
EXTENSIONS = frozenset(
    ".jpg .jpeg .jpe .png .webp .avif .gif .bmp .tif .tiff .ppm .pgm .pbm .pnm .jp2".split()  # noqa: SIM905
)
SPLITS = {"train", "val", "valid", "validation", "test"}  # names of folders that are not classes
RACY_NS = 2_000_000_000  # the coarsest time stamp of a file system in use (FAT)
READERS = 16  # folders that are read at the same time
UNKNOWN = (0, 0, 0)  # no folder has this stamp, so the folder counts as changed


@dataclass(frozen=True)
class Tree:
    """The image files under one root, class by class.

    Attributes:
        classes: names of the class folders, sorted.
        endings: of the files, by their code in ``kinds``.
        others: number of files without an image extension.
        hidden: number of folders and files that were skipped because their names begin with a dot.
        repeated: folders, relative to the root, whose files are also listed under another name.
        folders: of the tree, relative to the root.
        digest: of classes and paths.
        arrays: of `loaderlab.data.paths.PathPacker`; ``counts`` (C,) int64, files per class; ``stamps`` (F, 3) int64,
            one per folder.
    """

    classes: Sequence[str]
    endings: Sequence[str]
    others: int
    hidden: int
    repeated: Sequence[str]
    folders: Sequence[str]
    digest: str
    arrays: Mapping[str, Array]

    @property
    def labels(self) -> INT64:
        """The class of each file, (N,) int64."""
        return np.repeat(np.arange(len(self.classes), dtype=np.int64), self.arrays["counts"])

    def unchanged(self, root: Path) -> bool:
        """Whether no folder has changed since. Adding, removing or renaming an entry changes the time of its folder."""
        paths = [os.path.join(root, folder) for folder in self.folders]
        with ThreadPoolExecutor(READERS) as pool:
            try:
                parts = list(pool.map(_stamps, (paths[first::READERS] for first in range(READERS))))
            except OSError:
                return False
        earlier = self.arrays["stamps"]
        return all(np.array_equal(part, earlier[first::READERS]) for first, part in enumerate(parts))


def _stamp(state: os.stat_result) -> tuple[int, int, int]:
    """Values that differ after any change of a folder. They include ctime, which no program can set back: `rsync -a` and `tar`
    copy mtime from elsewhere. They do not include the device number, which differs between nodes."""
    return state.st_ino % 2**63, state.st_mtime_ns, state.st_ctime_ns


def _stamps(folders: Sequence[str]) -> INT64:
    return np.array([_stamp(os.stat(folder)) for folder in folders], np.int64).reshape(-1, len(UNKNOWN))


def scan(root: Path, setting: str, on_progress: Callable[[int, int | None], None]) -> Tree:
    """The list of a tree; see `loaderlab.data.imagefolder.list_folder` for the arguments and errors."""
    enter = functools.partial(_enter, root, setting, time.time_ns())
    packer = PathPacker()
    top = enter("", None)
    classes = top.subfolders
    _refuse_no_classes(classes, root, setting)
    counts, others, hidden = [], 0, top.hidden
    entered = [(top.name, top.stamp, top.identity)]  # not the `_Folder` objects: they keep the names of all files
    for name, folder in zip(classes, _read_ahead(enter, top), strict=True):
        before = len(packer)
        for each in _with_descendants(folder, enter):
            entered.append((each.name, each.stamp, each.identity))
            hidden += each.hidden
            _refuse_other_encodings(os.path.join(root, each.name), each.files, setting, root)
            for file in each.files:
                if (kind := ending(file)) in EXTENSIONS:
                    packer.add(f"{each.name}/{file}", kind)
                else:
                    others += 1
        counts.append(len(packer) - before)
        if not counts[-1]:
            raise DataError(
                f"{setting}={root}: the class folder {name} contains no image ({' '.join(sorted(EXTENSIONS))}). "
                "Put images into it or remove it"
            )
        on_progress(len(packer) + others, None)
    folders, stamps, identities = zip(*entered, strict=True)
    arrays = packer.arrays() | {"counts": np.array(counts, np.int64), "stamps": np.array(stamps, np.int64)}
    digest = hashlib.sha256("\n".join(classes).encode())
    for part in ("counts", "bounds", "text"):
        digest.update(arrays[part].data)
    repeated = _repeated(folders, identities)
    return Tree(classes, packer.endings, others, hidden, repeated, folders, digest.hexdigest(), arrays)


@dataclass(frozen=True)
class _Folder:
    """The content of one folder, with links followed: sorted names of its sub-folders and files, without hidden ones."""

    name: str  # relative to the root
    chain: Sequence[str]  # real paths of the folders from the root to this one
    identity: tuple[int, int]  # device and inode
    stamp: tuple[int, int, int]
    subfolders: Sequence[str]
    links: frozenset[str]  # sub-folders that are links
    files: Sequence[str]
    hidden: int


def _enter(root: Path, setting: str, began_ns: int, name: str, parent: _Folder | None) -> _Folder:
    """Reads one folder.

    Args:
        root, setting: see `loaderlab.data.imagefolder.list_folder`.
        began_ns: when the listing of the tree began.
        name: of the folder, relative to the root.
        parent: the folder that contains it; None for the root.
    """
    path = os.path.join(root, name)
    real = os.fspath(root) if parent is None else os.path.join(parent.chain[-1], os.path.basename(name))
    if parent is not None and os.path.basename(name) in parent.links:
        real = os.path.realpath(path)
        _refuse_link_upwards(path, real, parent.chain, setting, root)
    try:
        state = os.stat(path)  # before the entries are read, so that a later change gives another stamp
        entries = _entries(path)
    except OSError as error:
        raise DataError(f"{setting}={root}: cannot read the folder {path}: {error.strerror}") from error
    # a folder that has just changed could change again within the same time stamp; the target of a dangling link could be
    # created later, which changes the stamp of no folder in the tree
    racy = max(_stamp(state)[1:]) > began_ns - RACY_NS
    return _Folder(
        name,
        (real,) if parent is None else (*parent.chain, real),
        (state.st_dev, state.st_ino),
        UNKNOWN if racy or entries.dangling else _stamp(state),
        entries.folders,
        entries.links,
        entries.files,
        entries.hidden,
    )


def _refuse_link_upwards(link: str, target: str, chain: Sequence[str], setting: str, root: Path) -> None:
    """Raises:
    DataError: the link leads to a folder on its own path, or above it, and would be followed without end.
    """
    above = target.rstrip("/") + "/"
    if any(real == target or real.startswith(above) for real in chain):
        raise DataError(
            f"{setting}={root}: the link {link} leads back up to {target}, so its files would be listed many times. "
            "Remove the link"
        )


def _repeated(folders: Sequence[str], identities: Sequence[tuple[int, int]]) -> list[str]:
    first: dict[tuple[int, int], str] = {}
    return [
        name for name, identity in zip(folders, identities, strict=True) if first.setdefault(identity, name) != name
    ]


Enter = Callable[[str, _Folder | None], _Folder]


def _with_descendants(folder: _Folder, enter: Enter) -> Iterator[_Folder]:
    """The folder, then all folders below it, parents first."""
    yield folder
    for name in folder.subfolders:
        yield from _with_descendants(enter(f"{folder.name}/{name}", folder), enter)


def _read_ahead(enter: Enter, top: _Folder) -> Iterator[_Folder]:
    """The sub-folders in order. The next ones are read ahead in threads: disks and servers handle several requests at once."""
    with ThreadPoolExecutor(READERS) as pool:
        pending: deque[Future[_Folder]] = deque()
        for name in top.subfolders:
            pending.append(pool.submit(enter, name, top))
            if len(pending) > READERS:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _refuse_other_encodings(path: str, files: Sequence[str], setting: str, root: Path) -> None:
    if _is_utf8("".join([path, *files])):
        return
    for file in files:
        if not _is_utf8(path + file):
            raise DataError(f"{setting}={root}: the file name {file!a} is not UTF-8. Rename it")


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class _Entries:
    """See `_Folder`; ``dangling``: there is a link whose target does not exist."""

    folders: Sequence[str]
    links: frozenset[str]
    files: Sequence[str]
    hidden: int
    dangling: bool


def _entries(path: str) -> _Entries:
    folders: list[str] = []
    links: list[str] = []
    files: list[str] = []
    hidden, dangling = 0, False
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                hidden += 1
                continue
            try:
                is_folder = entry.is_dir()
                dangling |= entry.is_symlink() and not is_folder and not entry.is_file()
            except OSError:  # a circular link, or one whose target this user may not read
                is_folder, dangling = False, True
            (folders if is_folder else files).append(entry.name)
            if is_folder and entry.is_symlink():
                links.append(entry.name)
    return _Entries(sorted(folders), frozenset(links), sorted(files), hidden, dangling)


def _refuse_no_classes(classes: Sequence[str], root: Path, setting: str) -> None:
    if not classes:
        raise DataError(f"{setting}={root}: contains no sub-folder; one sub-folder of images per class is needed")
    if set(classes) <= SPLITS and "train" in classes:
        others = [name for name in classes if name != "train"]
        second = f" data.val_root={root / others[0]}" if others else ""
        raise refuse(
            setting,
            root,
            f"its sub-folders are splits, not classes: {', '.join(classes)}",
            f"data.root={root / 'train'}{second}",
            is_example=False,
            error=DataError,
        )

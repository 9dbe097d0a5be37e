"""A generated set with the file sizes and entropy of ImageNet, made once from a seed as a folder-per-class tree of JPEG files.

It replaces photographs in throughput measurements, because it has the same sizes, bytes and decoding cost: see
`loaderlab.data.synthesis`. A model can learn it (each class has its own coarse colours), but learns nothing about the world.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loaderlab.config import PhotosData, refuse
from loaderlab.data import imagefolder, room
from loaderlab.data.spec import DataError, DataSpec
from loaderlab.data.synthesis import BYTES_PER_PX, MEAN_AREA, Painter
from loaderlab.system.causes import reason
from loaderlab.system.files import atomic_folder
from loaderlab.system.machine import available_cores
from loaderlab.system.processes import end_with_parent

MANIFEST = "manifest.json"
VERSION = 1  # of the pictures: changes when the files change
VAL_SHARE = 0.04  # of the number of training files, as in ImageNet; at least one file per class
CHUNK = 32  # files that a process makes per task
FILES_A_PROCESS = 100  # a further process is started only for this many files
BLOCK_BYTES = 4096  # the smallest size of a file on most disks
PAINT_BYTES_PER_PX = 55  # memory to paint the largest picture: 32 measured at 4,000 x 3,000 pixels, times 1.28 ** 2
MAX_CHECKED = 100_000  # files whose size is checked at each start: about 0.3 s
OnProgress = Callable[[int, int | None], None]


def build(config: PhotosData, on_progress: OnProgress) -> DataSpec:
    """The spec of the tree, which is written first if it is missing.

    Each start checks the manifest against the settings, the number of files in both splits, and the size of each file. In a set
    of more than 100,000 files it checks the sizes of 50,000 to 100,000 files spread over the set. File content is not read.

    Args:
        config: number and size of the pictures, their seed, and the parent folder.
        on_progress: called with (files written, files in total).

    Raises:
        DataError: the tree cannot be written, does not fit on the disk, or has changed since it was written.
    """
    photo_set = PhotoSet(config)
    tree = folder(config)
    try:
        if not tree.exists():
            _write(tree, photo_set, on_progress)
    except (OSError, BrokenProcessPool) as error:
        allowed = f"cannot write {photo_set.num_files:,} photos there: {reason(error)}"
        raise refuse("data.root", config.root, allowed, "data.root=/path", error=DataError) from error
    advice = f"Remove the folder and run again: rm -r {tree}"
    try:
        manifest = json.loads((tree / MANIFEST).read_text(encoding="utf-8"))
        _check_manifest(manifest, photo_set, tree)
        spec = imagefolder.build("photos", tree / "train", tree / "val", 0.0, 0, config.transform, on_progress)
    except (DataError, OSError, ValueError) as error:
        raise DataError(
            f"{tree}: does not contain the photos that were written there: {reason(error)}. {advice}"
        ) from error
    assert spec.val is not None
    if (spec.train.num_samples, spec.val.num_samples) != (config.num_files, photo_set.num_val):
        raise DataError(f"{tree}: files are missing or were added; {MANIFEST} lists {photo_set.num_files:,}. {advice}")
    return spec


def folder(config: PhotosData) -> Path:
    """The folder of the tree, below ``data.root``."""
    return Path(config.root) / PhotoSet(config).name


@dataclass(frozen=True)
class PhotoSet:
    """The path and label of each picture: training files first, then validation files, with the classes in turn."""

    config: PhotosData

    @property
    def num_val(self) -> int:
        return max(self.config.num_classes, round(VAL_SHARE * self.config.num_files))

    @property
    def num_files(self) -> int:
        return self.config.num_files + self.num_val

    @property
    def facts(self) -> dict[str, int]:
        """All values that determine the content."""
        names = ("num_files", "num_classes", "width_px", "height_px", "data_seed")
        return {"version": VERSION} | {name: getattr(self.config, name) for name in names}

    @property
    def name(self) -> str:
        config = self.config
        return f"{config.width_px}x{config.height_px}_{config.num_files}files_{config.num_classes}classes_seed{config.data_seed}"

    @property
    def num_bytes(self) -> int:
        """The estimated size of all files."""
        each = max(BLOCK_BYTES, BYTES_PER_PX * MEAN_AREA * self.config.width_px * self.config.height_px)
        return round(self.num_files * each)

    @property
    def num_processes(self) -> int:
        """The number of processes that paint. 0 and 1: only this process."""
        return min(available_cores(), self.num_files // FILES_A_PROCESS)

    def place(self, index: int) -> tuple[str, int]:
        """The path below the folder, and the label."""
        split, position = ("train", index) if index < self.config.num_files else ("val", index - self.config.num_files)
        label = position % self.config.num_classes
        return f"{split}/{label:04d}/{index:07d}.jpg", label

    def sizes(self, folder: Path) -> dict[str, int]:
        """The size in bytes of each checked file, by its path below the folder."""
        step = -(-self.num_files // MAX_CHECKED)
        places = (self.place(index)[0] for index in range(0, self.num_files, step))
        return {place: os.path.getsize(folder / place) for place in places}


def _check_manifest(manifest: Any, photo_set: PhotoSet, folder: Path) -> None:
    """Raises:
    DataError: the manifest belongs to other photos, or the files have other sizes.
    OSError: a file is missing.
    """
    if not isinstance(manifest, dict) or {name: manifest.get(name) for name in photo_set.facts} != photo_set.facts:
        raise DataError(f"{MANIFEST} belongs to other photos")
    recorded = manifest.get("sizes")
    if not isinstance(recorded, dict):
        raise DataError(f"{MANIFEST} is of an earlier version and does not record the size of each file")
    sizes = photo_set.sizes(folder)
    differing = [place for place in sizes.keys() | recorded.keys() if sizes.get(place) != recorded.get(place)]
    if differing:
        place = min(differing)
        raise DataError(
            f"{len(differing)} files differ in size from {MANIFEST}, such as {place} ({sizes.get(place)} bytes instead of "
            f"{recorded.get(place)})"
        )


def _write(folder: Path, photo_set: PhotoSet, on_progress: OnProgress) -> None:
    """Writes the tree. An interrupted write leaves no tree."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _check_room(photo_set)
    with atomic_folder(folder) as partial:
        for label in range(photo_set.config.num_classes):
            for split in ("train", "val"):
                (partial / split / f"{label:04d}").mkdir(parents=True)
        _paint_all(partial, photo_set, on_progress)
        manifest = photo_set.facts | {"source": __name__, "sizes": photo_set.sizes(partial)}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _check_room(photo_set: PhotoSet) -> None:
    """Raises:
    DataError: the files do not fit on the disk, or the pictures that are painted at the same time do not fit in memory.
    """
    config = photo_set.config
    room.check_disk(
        "data.num_files",
        config.num_files,
        f"{photo_set.num_files:,} photos, including those for validation,",
        photo_set.num_bytes,
        config.root,
        f"data.num_files={max(config.num_classes, min(2_000, config.num_files // 10))}, or data.root=/path",
    )
    num_processes = max(1, photo_set.num_processes)
    room.check_memory(
        "data.width_px",
        config.width_px,
        f"{num_processes} pictures of {config.width_px} x {config.height_px} pixels, painted at the same time,",
        round(num_processes * PAINT_BYTES_PER_PX * config.width_px * config.height_px),
        "data.width_px=500 data.height_px=375",
    )


def _paint_all(folder: Path, photo_set: PhotoSet, on_progress: OnProgress) -> None:
    """Writes all files with one process per core. Each file depends only on its index, not on the process."""
    done = 0
    paint = functools.partial(_paint, folder, photo_set)
    starts = range(0, photo_set.num_files, CHUNK)
    num_processes = photo_set.num_processes
    pool = None
    if num_processes > 1:
        pool = ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn"), _begin_process)
    try:
        for painted in map(paint, starts) if pool is None else pool.map(paint, starts):
            done += painted
            on_progress(done, photo_set.num_files)
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def _begin_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles Ctrl-C
    end_with_parent()


def _paint(folder: Path, photo_set: PhotoSet, start: int) -> int:
    """Writes up to `CHUNK` files starting at this index, and returns their number."""
    painter = _painter(photo_set.config.data_seed, photo_set.config.width_px, photo_set.config.height_px)
    indexes = range(start, min(start + CHUNK, photo_set.num_files))
    for index in indexes:
        path, label = photo_set.place(index)
        (folder / path).write_bytes(painter.jpeg(index, label))
    return len(indexes)


@functools.lru_cache(1)
def _painter(seed: int, width_px: int, height_px: int) -> Painter:
    """The painter for all chunks of a process. It takes half a second to create."""
    return Painter(seed, width_px, height_px)

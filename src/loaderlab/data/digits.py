"""scikit-learn's 1,797 real handwritten digits, written once as a folder-per-class tree of JPEG files.

The bitmaps are 8x8 (Alpaydin and Kaynak, UCI Optical Recognition of Handwritten Digits). They are enlarged to the
chosen size, so that decoding and resizing cost as much as for photographs of that size.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from loaderlab.config import DigitsData, refuse
from loaderlab.data import imagefolder, room
from loaderlab.data.spec import UINT8, DataError, DataSpec
from loaderlab.system.causes import reason
from loaderlab.system.files import atomic_folder

MANIFEST = "manifest.json"
VAL_FRACTION, SPLIT_SEED = 0.2, 0
MEMORY_BYTES_PER_PX = 6  # memory to encode a picture, measured at 4,000 pixels
SUBSAMPLING = {"444": 0, "420": 2}  # Pillow's codes


def build(config: DigitsData, on_progress: Callable[[int, int], None]) -> DataSpec:
    """The spec of the tree. The tree is written if it is missing, and checked against its manifest.

    Args:
        config: size, subsampling and quality of the JPEG files, and the parent folder.
        on_progress: called with (files written, files in total).

    Raises:
        DataError: the tree cannot be written, or one of its files differs from the manifest.
    """
    tree = folder(config)
    try:
        if not tree.exists():
            _write(tree, config, on_progress)
    except OSError as error:
        raise refuse(
            "data.root",
            config.root,
            f"cannot write the digits there: {reason(error)}",
            "data.root=/path",
            error=DataError,
        ) from error
    _verify(tree)
    return imagefolder.build("digits", tree / "train", tree / "val", 0.0, 0, config.transform, lambda *_: None)


def folder(config: DigitsData) -> Path:
    """The folder of the tree, below ``data.root``."""
    return Path(config.root) / f"{config.image_px}px_{config.subsampling}_q{config.quality}"


def _write(folder: Path, config: DigitsData, on_progress: Callable[[int, int], None]) -> None:
    """Writes the tree. An interrupted write leaves no tree."""
    from sklearn.datasets import load_digits  # the import takes half a second, so it happens only when needed

    bitmaps, labels = load_digits(return_X_y=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _check_room(bitmaps, config)
    labels = labels.astype(np.int64)
    _, val = imagefolder.stratified_split(labels, VAL_FRACTION, SPLIT_SEED)
    val_ids = set(val.tolist())
    with atomic_folder(folder) as partial:
        checksums = {}
        for index in range(len(labels)):
            split = "val" if index in val_ids else "train"
            path = partial / split / str(labels[index]) / f"{index:04d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            encoded = _encode(bitmaps[index].reshape(8, 8), config)
            path.write_bytes(encoded)
            checksums[path.relative_to(partial).as_posix()] = hashlib.sha256(encoded).hexdigest()
            on_progress(index + 1, len(labels))
        manifest = {
            "source": "sklearn.datasets.load_digits",
            "image_px": config.image_px,
            "subsampling": config.subsampling,
            "quality": config.quality,
            "split": {"val_fraction": VAL_FRACTION, "seed": SPLIT_SEED},
            "sha256": checksums,
        }
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _check_room(bitmaps: np.ndarray[tuple[int, int], np.dtype[np.float64]], config: DigitsData) -> None:
    """Raises:
    DataError: a picture does not fit in memory, or the files (estimated by the first) do not fit on the disk.
    """
    size = f"{config.image_px} x {config.image_px} pixels"
    num_bytes = MEMORY_BYTES_PER_PX * config.image_px**2
    room.check_memory("data.image_px", config.image_px, f"a picture of {size}", num_bytes, "data.image_px=160")
    num_bytes = len(bitmaps) * len(_encode(bitmaps[0].reshape(8, 8), config))
    override = "data.image_px=160, or data.root=/path"
    files = f"{len(bitmaps):,} files of {size}"
    room.check_disk("data.image_px", config.image_px, files, num_bytes, config.root, override)


def _encode(bitmap: np.ndarray[tuple[int, int], np.dtype[np.float64]], config: DigitsData) -> bytes:
    """One 8x8 bitmap of 0..16 as the bytes of an RGB JPEG file."""
    grey: UINT8 = np.round(bitmap * (255 / 16)).astype(np.uint8)
    size = (config.image_px, config.image_px)
    image = Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC).convert("RGB")
    out = io.BytesIO()
    image.save(out, "JPEG", quality=config.quality, subsampling=SUBSAMPLING[config.subsampling])
    return out.getvalue()


def _verify(folder: Path) -> None:
    advice = f"Remove the folder and run again: rm -r {folder}"
    try:
        checksums: dict[str, str] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["sha256"]
        for name, expected in checksums.items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != expected:
                raise DataError(f"{folder / name}: differs from {MANIFEST}. {advice}")
    except (OSError, json.JSONDecodeError, KeyError) as error:
        raise DataError(f"{folder}: the tree of digits is incomplete: {reason(error)}. {advice}") from error
    num_files = sum(len(files) for split in ("train", "val") for _, _, files in os.walk(folder / split))
    if num_files != len(checksums):
        raise DataError(f"{folder}: has {num_files} files, but {MANIFEST} lists {len(checksums)}. {advice}")

"""The generated photographs: the configured number and sizes, reproducible, and never half written."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from io import BytesIO
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import assume, given
from PIL import Image

from loaderlab.config import PhotosData, TransformConfig
from loaderlab.data import photos, synthesis
from loaderlab.data.spec import DataError, DataSpec, ImageFiles

NAME = "64x48_40files_5classes_seed0"


def config(root: Path, **settings: int) -> PhotosData:
    small: dict[str, Any] = {"num_files": 40, "num_classes": 5, "width_px": 64, "height_px": 48} | settings
    return PhotosData(root=str(root), transform=TransformConfig(image_size=16), **small)


def nothing(_done: int, total: int | None) -> None:
    assert total is None, "nothing may be written"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    seen: list[tuple[int, int | None]] = []
    photos.build(config(root), lambda done, total: seen.append((done, total)))
    assert [entry for entry in seen if entry[1] is not None] == [(32, 45), (45, 45)]
    return root / NAME


def test_every_class_is_in_both_splits(tree: Path) -> None:
    spec: DataSpec = photos.build(config(tree.parent), nothing)
    assert spec.val is not None
    assert isinstance(spec.train.source, ImageFiles)
    assert isinstance(spec.val.source, ImageFiles)
    assert np.bincount(spec.train.source.labels).tolist() == [8] * 5
    assert spec.val.source.labels.tolist() == [0, 1, 2, 3, 4]
    assert (spec.name, spec.classes) == ("photos", ("0000", "0001", "0002", "0003", "0004"))


def test_sizes_vary_as_documented(tree: Path) -> None:
    sizes = []
    for path in tree.rglob("*.jpg"):
        with Image.open(path) as image:
            sizes.append(image.size)
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert image.layer[0][1:3] == (2, 2)  # type: ignore[attr-defined]  # luma at twice the chroma's resolution
    assert 0.4 < sum(size == (64, 48) for size in sizes) / len(sizes) < 0.7
    assert sum(height > width for width, height in sizes) >= 5
    assert np.mean([width * height for width, height in sizes]) == pytest.approx(64 * 48, rel=0.05)


def test_files_have_the_bytes_of_imagenets() -> None:
    painter = synthesis.Painter(0, 500, 375)
    sizes = [len(painter.jpeg(index, index)) for index in range(240, 270)]
    assert 105_000 < np.mean(sizes) < 115_000
    assert 20_000 < np.std(sizes) < 60_000


def test_colours_identify_the_label(monkeypatch: pytest.MonkeyPatch) -> None:
    painter = synthesis.Painter(0, 64, 48)

    def coarse(index: int, label: int) -> np.ndarray:
        monkeypatch.setattr(painter, "_size", lambda _draw: (64, 48))
        with Image.open(BytesIO(painter.jpeg(index, label))) as image:
            return np.asarray(image.resize((4, 4), Image.Resampling.BOX), np.float64).ravel()

    of_a_class = [
        np.mean([coarse(index, label) for index in range(10 * label, 10 * label + 8)], 0) for label in (0, 1, 2)
    ]
    right = [
        np.argmin([np.linalg.norm(coarse(100 + label, label) - mean) for mean in of_a_class]) for label in (0, 1, 2)
    ]
    assert right == [0, 1, 2]


def test_several_processes_make_the_same_files_as_one(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photos, "FILES_A_PROCESS", 20)
    monkeypatch.setattr(photos, "available_cores", lambda: 2)
    photos.build(config(tmp_path), lambda *_: None)
    assert contents(tmp_path / NAME) == contents(tree)
    other = synthesis.Painter(1, 64, 48).jpeg(0, 0)
    assert other != contents(tree)["train/0000/0000000.jpg"] == synthesis.Painter(0, 64, 48).jpeg(0, 0)


@pytest.mark.parametrize(
    "spoil", ["cut", "shifted", "remove", "add", "class", "manifest", "list", "old", "version", "seed"]
)
def test_a_tree_that_has_changed_is_refused(spoil: str, tree: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tree, tmp_path / tree.name))
    first, manifest = folder / "train" / "0000" / "0000000.jpg", folder / photos.MANIFEST
    match spoil:
        case "cut":
            first.write_bytes(first.read_bytes()[:-1])
        case "shifted":  # the sum of the sizes and the modification times stay
            second = folder / "train" / "0001" / "0000001.jpg"
            times = [path.stat().st_mtime_ns for path in (first, second)]
            second.write_bytes(second.read_bytes() + first.read_bytes()[-3:])
            first.write_bytes(first.read_bytes()[:-3])
            for path, time_ns in zip((first, second), times, strict=True):
                os.utime(path, ns=(time_ns, time_ns))
        case "remove":
            first.unlink()
        case "add":
            shutil.copy(first, folder / "val" / "0000" / "more.jpg")
        case "class":
            shutil.rmtree(folder / "val" / "0003")
        case "manifest":
            manifest.write_text("{")
        case "list":
            manifest.write_text("[]")
        case "old":  # it has the sum of the sizes only
            del (content := json.loads(manifest.read_text()))["sizes"]
            manifest.write_text(json.dumps(content | {"looked_at_bytes": 1}))
        case "seed":  # a folder that was renamed to that of another set
            folder = folder.rename(folder.with_name(NAME.replace("seed0", "seed1")))
        case "version":
            manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": 0}))
    with pytest.raises(DataError, match=f"rm -r {folder}"):
        photos.build(config(tmp_path, data_seed=int(spoil == "seed")), nothing)


@given(st.integers(0, 44), st.integers(0, 44), st.integers(1, 30))
def test_property_bytes_moved_between_two_files_are_refused(
    tree: Path, shorter: int, longer: int, num_bytes: int
) -> None:
    """Differing sizes are refused, even if their sum is the same."""
    assume(shorter != longer)
    photo_set = photos.PhotoSet(config(tree.parent))
    manifest = json.loads((tree / photos.MANIFEST).read_text())
    photos._check_manifest(manifest, photo_set, tree)
    manifest["sizes"][photo_set.place(shorter)[0]] += num_bytes
    manifest["sizes"][photo_set.place(longer)[0]] -= num_bytes
    with pytest.raises(DataError, match="2 files differ in size"):
        photos._check_manifest(manifest, photo_set, tree)


def test_an_interrupted_preparation_leaves_no_tree(tree: Path, tmp_path: Path) -> None:
    def interrupt(_done: int, _total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        photos.build(config(tmp_path), interrupt)
    assert list(tmp_path.iterdir()) == []
    photos.build(config(tmp_path), lambda *_: None)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert contents(tmp_path / NAME) == contents(tree)


def test_a_folder_that_cannot_be_written_and_a_disk_that_is_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="data.root=.*cannot write 45 photos there"):
        photos.build(config(tmp_path / "file" / "below"), nothing)
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9))
    with pytest.raises(
        DataError, match="data.num_files=1000000: 1,040,000 photos, .* 1[0-9]{2}\\.. GB, but 1.0 GB are free"
    ):
        photos.build(config(tmp_path, num_files=1_000_000, width_px=500, height_px=375), nothing)


def test_a_disk_that_fills_up_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match="No space left on device"):
        photos.build(config(tmp_path), nothing)
    assert list(tmp_path.iterdir()) == []


def test_pictures_that_do_not_fit_in_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loaderlab.data.room.available_memory", lambda: 10**9)
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**15))
    with pytest.raises(DataError, match=r"data\.width_px=50000: .* GB of memory, but 1\.0 GB are available"):
        photos.build(config(tmp_path, width_px=50_000, height_px=50_000), nothing)


def test_small_files_are_counted_in_blocks(tmp_path: Path) -> None:
    assert photos.PhotoSet(config(tmp_path, num_files=100, width_px=32, height_px=32)).num_bytes == 105 * 4096

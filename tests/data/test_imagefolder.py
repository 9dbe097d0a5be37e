"""Folder-per-class trees: what is listed, how it is split, what is refused."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from loaderlab.config import TransformConfig
from loaderlab.data import treecache
from loaderlab.data.imagefolder import build, stratified_split
from loaderlab.data.spec import DataError, DataSpec, ImageFiles, Split


def make(root: Path, val_root: Path | None = None, fraction: float = 0.25, seed: int = 0) -> DataSpec:
    return build("imagefolder", root, val_root, fraction, seed, TransformConfig(image_size=16), lambda *_: None)


def paths(spec_split: Split | None) -> list[str]:
    assert spec_split is not None
    source = spec_split.source
    assert isinstance(source, ImageFiles)
    return [source.paths[index] for index in range(len(source))]


def test_seeded_split_is_disjoint_complete_and_stratified(image_tree: Path) -> None:
    spec, again, other = make(image_tree), make(image_tree), make(image_tree, seed=1)
    assert spec.val is not None
    assert other.val is not None
    train, val = paths(spec.train), paths(spec.val)
    assert sorted(train + val) == sorted(str(path) for path in image_tree.rglob("*.jpg"))
    assert not set(train) & set(val)
    assert paths(again.train) == train
    assert paths(other.val) != val
    assert [sum("bee" in path for path in part) for part in (train, val)] == [8, 2]
    assert spec.classes == ("ant", "bee")
    assert spec.digest == again.digest != other.digest


def test_labels_belong_to_their_paths(image_tree: Path) -> None:
    spec = make(image_tree)
    assert isinstance(spec.train.source, ImageFiles)
    for path, label in zip(paths(spec.train), spec.train.source.labels, strict=True):
        assert Path(path).parent.name == spec.classes[label]


def test_a_separate_validation_root(image_tree: Path, own_tree: Path) -> None:
    spec = make(image_tree, own_tree)
    assert spec.val is not None
    assert (spec.train.num_samples, spec.val.num_samples) == (23, 23)
    assert paths(spec.val)[0].startswith(str(own_tree))


def test_no_validation_samples(image_tree: Path) -> None:
    assert make(image_tree, fraction=0.0).val is None


def test_nested_folders_count_and_other_files_do_not(own_tree: Path) -> None:
    (own_tree / "ant" / "deep" / "er").mkdir(parents=True)
    shutil.copy(own_tree / "ant" / "00.jpg", own_tree / "ant" / "deep" / "er" / "x.JPG")
    (own_tree / "ant" / "notes.txt").write_text("")
    spec = make(own_tree, fraction=0.0)
    assert spec.train.num_samples == 24
    assert spec.notes == ("1 files under data.root were skipped: they have no image extension",)


def a_file_instead(root: Path) -> None:
    shutil.rmtree(root)
    root.write_text("")


def an_empty_folder_instead(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: shutil.rmtree(root), "does not exist"),
        (a_file_instead, "is a file"),
        (an_empty_folder_instead, "no sub-folder"),
        (lambda root: (root / "cat").mkdir(), "class folder cat contains no image"),
        (
            lambda root: (root / "ant").rename(root / "train") and (root / "bee").rename(root / "val"),
            "data.val_root=",
        ),
    ],
    ids=["missing", "file", "empty", "class-without-files", "splits"],
)
def test_refused(spoil: Callable[[Path], object], message: str, own_tree: Path) -> None:
    spoil(own_tree)
    with pytest.raises(DataError, match=message) as refused:
        make(own_tree)
    assert str(own_tree) in str(refused.value)


def test_a_name_that_is_not_utf8_is_refused(own_tree: Path) -> None:
    Path(os.fsdecode(os.fsencode(own_tree) + b"/\xe9.txt")).write_bytes(b"")
    assert make(own_tree).train.num_samples == 18  # outside the class folders it is not a sample
    Path(os.fsdecode(os.fsencode(own_tree / "bee") + b"/\xe9.jpg")).write_bytes(b"")
    with pytest.raises(DataError, match="is not UTF-8"):
        make(own_tree)


def test_other_classes_in_the_validation_root(image_tree: Path, own_tree: Path) -> None:
    (own_tree / "bee").rename(own_tree / "wasp")
    with pytest.raises(DataError, match="bee, wasp"):
        make(image_tree, own_tree)


def test_split_keeps_one_sample_of_each_class() -> None:
    train, val = stratified_split(np.array([0, 1, 1, 1, 1, 2, 2]), 0.9, 0)
    assert sorted([*train, *val]) == list(range(7))
    assert train.tolist().count(0) == 1  # the only sample of class 0
    assert len(val) == 4  # three of class 1, one of class 2


@pytest.mark.parametrize(("in_order", "digest"), [(False, "ab9c8bfeb40f78f1"), (True, "cef394c2e262c45f")])
def test_a_seed_always_gives_the_same_split(in_order: bool, digest: str) -> None:
    labels = np.random.default_rng(0).integers(0, 50, 5000)
    train, val = stratified_split(np.sort(labels) if in_order else labels, 0.2, 7)
    assert hashlib.sha256(val.tobytes()).hexdigest()[:16] == digest  # recorded with the first version
    assert np.array_equal(np.setdiff1d(np.arange(5000), val), train)
    small = np.array([3, 0, 0, 0, 0, 3, 3, 2, 0, 0, 1, 1, 2, 1, 1, 0, 2, 2, 0, 0])
    assert stratified_split(small, 0.3, 5)[1].tolist() == [0, 2, 3, 8, 10, 17]


def test_progress_counts_over_both_trees(image_tree: Path, own_tree: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    transform = TransformConfig(image_size=16)
    shutil.rmtree(treecache.folder(), ignore_errors=True)
    build("imagefolder", image_tree, own_tree, 0.0, 0, transform, lambda done, total: seen.append((done, total)))
    assert seen == [(13, None), (23, None), (36, None), (46, None)]

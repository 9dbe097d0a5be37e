"""Indexes of tar files: one per file, used only for that file's current content, and read back as written."""

from __future__ import annotations

import os
import shutil
import string
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loaderlab import data
from loaderlab.config import TransformConfig, WebDatasetData
from loaderlab.data import shardindex, tarscan
from loaderlab.data.spec import DataError, TarImages
from loaderlab.data.tarscan import Members
from tests.conftest import write_tar

HOUR_NS = 3_600_000_000_000
SHARDS = {"set.v2-000.tar": 30, "set.v2-001.tar": 30, "set.v2-002.tar": 30, "set.v2-003.tar": 12}


def tar_of(path: Path, num_samples: int, first: int = 0, size: int = 20) -> Path:
    """A tar file in which sample i has the label i and an image of ``size`` bytes of value i."""
    members = []
    for index in range(first, first + num_samples):
        members += [(f"{index:04d}.jpg", bytes([index % 256]) * size), (f"{index:04d}.cls", str(index).encode())]
    write_tar(path, members)
    return path


def labels_of(shards: object) -> list[int]:
    """The labels of a set in order. Also checks that each sample has its own image."""
    config = WebDatasetData(shards=str(shards), val_fraction=0.0, transform=TransformConfig(image_size=16))
    source = data.build(config, lambda *_: None).train.source
    assert isinstance(source, TarImages)
    for index, label in enumerate(source.labels.tolist()):
        assert np.unique(source.read(index)).tolist() == [label % 256]
    return [int(label) for label in source.labels]


def by_index(path: Path) -> list[Members]:
    return shardindex.members(str(path), shardindex.paths([str(path)])[0])


def wds2idx(tar: Path, index: Path) -> None:
    from wds2idx import IndexCreator

    with IndexCreator(str(tar), str(index), verbose=False) as creator:
        creator.create_index()


def newer(index: Path, tar: Path) -> None:
    """Makes the index look as if it was written long after the tar file's last change."""
    later = max(tar.stat().st_mtime_ns, tar.stat().st_ctime_ns) + HOUR_NS
    os.utime(index, ns=(later, later))


def test_shards_with_dots_in_their_names_have_one_index_each(tmp_path: Path) -> None:
    first = 0
    for name, num_samples in SHARDS.items():
        tar_of(tmp_path / name, num_samples, first)
        first += num_samples
    for _ in range(2):  # made, then read
        assert labels_of(tmp_path) == list(range(102))
    assert sorted(path.name for path in tmp_path.glob("*.idx")) == [f"{name}.loaderlab.idx" for name in SHARDS]


def test_the_index_name_of_wds2idx_is_used_if_only_one_shard_has_it(tmp_path: Path) -> None:
    one, two = str(tmp_path / "set.v2-000.tar"), str(tmp_path / "set.v2-001.tar")
    tar_of(Path(one), 3)
    assert shardindex.paths([one]) == [tmp_path / "set.idx"]
    tar_of(Path(two), 3)
    assert shardindex.paths([one]) == [Path(one + ".loaderlab.idx")]
    wds2idx(Path(two), tmp_path / "set.idx")
    newer(tmp_path / "set.idx", Path(two))
    before = (tmp_path / "set.idx").read_bytes()
    assert labels_of(one) == labels_of(two) == [0, 1, 2]
    assert (tmp_path / "set.idx").read_bytes() == before


@pytest.mark.parametrize(
    "names", [("data-00", "data-01"), ("a", "a.tar"), ("a.tar", "a.TAR"), ("a.loaderlab.tar", "a")]
)
def test_names_with_any_ending_have_one_index_each(names: tuple[str, str], tmp_path: Path) -> None:
    for number, name in enumerate(names):
        tar_of(tmp_path / name, 3 + number, 10 * number)
    for _ in range(2):
        assert labels_of(tmp_path / names[0]) == [0, 1, 2]
        assert labels_of(tmp_path / names[1]) == [10, 11, 12, 13]
    assert len(list(tmp_path.glob("*.idx"))) == 2
    assert len(labels_of(tmp_path / "*")) == 7  # indexes are not tar files


NAMES = st.lists(st.text("ab. é", min_size=1, max_size=5), unique=True, min_size=2, max_size=6).map(
    lambda stems: sorted({stem + ending for stem in stems for ending in ("", ".tar")} - {".", ".."})
)


@given(names=NAMES, chosen=st.data())
def test_property_no_two_files_share_an_index(
    names: list[str], chosen: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("names")
    try:
        for name in names:
            (folder / name).touch()
        indexes = shardindex.paths([str(folder / name) for name in names])
        assert len(set(indexes)) == len(names)
        assert not {index.name for index in indexes} & set(names)
        assert all(index.parent == folder for index in indexes)
        some = chosen.draw(st.lists(st.sampled_from(names), unique=True))
        assert shardindex.paths([str(folder / name) for name in some]) == [indexes[names.index(name)] for name in some]
    finally:
        shutil.rmtree(folder)


def replace_by_older(tar: Path, other: Path) -> None:
    """Like `cp -p` and `rsync -a`."""
    shutil.copy2(other, tar)


def rename_older(tar: Path, other: Path) -> None:
    os.replace(other, tar)


def write_with_old_time(tar: Path, other: Path) -> None:
    before = tar.stat()
    tar.write_bytes(other.read_bytes())
    os.utime(tar, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = [replace_by_older, rename_older, write_with_old_time]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("by", ["loaderlab", "wds2idx"])
def test_a_shard_replaced_by_an_older_one_is_indexed_again(
    change: Callable[[Path, Path], None], by: str, tmp_path: Path
) -> None:
    tar, other = tar_of(tmp_path / "set.tar", 80), tar_of(tmp_path / "other", 120, 7)
    os.utime(other, ns=(0, tar.stat().st_mtime_ns - HOUR_NS))
    if by == "wds2idx":
        wds2idx(tar, tmp_path / "set.idx")
    assert labels_of(tar) == list(range(80))
    change(tar, other)
    assert labels_of(tar) == list(range(7, 127))


@pytest.mark.parametrize("num_samples", [119, 121])
def test_a_newer_index_by_wds2idx_of_another_size_is_not_used(num_samples: int, tmp_path: Path) -> None:
    """On a file system without ctime, only the size differs."""
    tar, other = tar_of(tmp_path / "set.tar", 120), tar_of(tmp_path / "other", num_samples)
    wds2idx(other, tmp_path / "set.idx")
    newer(tmp_path / "set.idx", tar)
    assert labels_of(tar) == list(range(120))


def test_an_index_by_wds2idx_is_not_used_after_its_tar_file_was_replaced(tmp_path: Path) -> None:
    """The new file is older, and its last member has the same position and size."""
    tar, index = tar_of(tmp_path / "set.tar", 4), tmp_path / "set.idx"
    wds2idx(tar, index)
    large = [("a.jpg", b"\5" * 5 * 512), ("a.cls", b"5")]  # as many bytes as two of the other samples
    other = [
        (f"{label}.{kind}", bytes([label]) * 20 if kind == "jpg" else b"%d" % label)
        for label in (6, 7)
        for kind in ("jpg", "cls")
    ]
    write_tar(tmp_path / "other", large + other)
    assert (tmp_path / "other").stat().st_size == tar.stat().st_size
    os.utime(index, ns=(0, tar.stat().st_mtime_ns))
    os.utime(tmp_path / "other", ns=(0, tar.stat().st_mtime_ns - HOUR_NS))
    os.replace(tmp_path / "other", tar)
    assert labels_of(tar) == [5, 6, 7]


def test_an_index_of_a_file_with_a_future_time_is_not_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a coarse clock, or one that was set back, another change could get the same time."""
    tar, stamp = tar_of(tmp_path / "set.tar", 3), shardindex._stamp
    monkeypatch.setattr(shardindex, "_stamp", lambda path: (*stamp(path)[:2], stamp(path)[2] + HOUR_NS, 0))
    scanned: list[str] = []

    def scan(path: str) -> list[Members]:
        scanned.append(path)
        return tarscan.scan(path)

    monkeypatch.setattr(shardindex, "scan", scan)
    assert labels_of(tar) == labels_of(tar) == [0, 1, 2]
    assert len(scanned) == 2


def test_an_index_by_wds2idx_is_used_if_it_is_newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = tar_of(tmp_path / "set.tar", 5)
    wds2idx(tar, tmp_path / "set.idx")
    newer(tmp_path / "set.idx", tar)
    monkeypatch.setattr(shardindex, "scan", lambda _: pytest.fail("the index is newer"))
    assert labels_of(tar) == list(range(5))


WRITES = st.tuples(st.integers(1, 4), st.sampled_from([20, 600]), st.sampled_from(["write", "rename"]))
TIMES = st.sampled_from(["now", "kept", "older", "newer"])


@given(changes=st.lists(st.tuples(WRITES, TIMES), min_size=1, max_size=3))
def test_property_an_index_is_used_only_for_its_own_content(
    changes: list[tuple[tuple[int, int, str], str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Content, size and times change in any combination; the samples are always those of the file."""
    folder = tmp_path_factory.mktemp("fresh")
    try:
        tar = tar_of(folder / "set.tar", 2)
        by_index(tar)
        for step, ((num_samples, size, how), mtime) in enumerate(changes):
            before = tar.stat()
            other = tar_of(folder / "other", num_samples, 100 * step, size)
            if how == "rename":
                os.replace(other, tar)
            else:
                tar.write_bytes(other.read_bytes())
            shift_ns = {"kept": 0, "older": -HOUR_NS, "newer": HOUR_NS}
            if mtime != "now":
                os.utime(tar, ns=(0, before.st_mtime_ns + shift_ns[mtime]))
            assert by_index(tar) == tarscan.scan(str(tar))
            assert by_index(tar) == tarscan.scan(str(tar))
    finally:
        shutil.rmtree(folder)


def test_an_index_of_a_file_that_changes_during_the_scan_is_not_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar, scan = tar_of(tmp_path / "set.tar", 3), tarscan.scan

    def changed_after(path: str) -> list[Members]:
        samples = scan(path)
        tar_of(tar, 3, 50)
        return samples

    monkeypatch.setattr(shardindex, "scan", changed_after)
    by_index(tar)
    monkeypatch.undo()
    assert labels_of(tar) == [50, 51, 52]


@pytest.mark.parametrize(
    "damage", [lambda text: text[:-20], lambda text: text.replace("jpg 512", "jpg x"), lambda _: ""]
)
def test_a_damaged_index_is_written_again(damage: Callable[[str], str], tmp_path: Path) -> None:
    tar, index = tar_of(tmp_path / "set.tar", 3), tmp_path / "set.idx"
    assert labels_of(tar) == [0, 1, 2]
    whole = index.read_text()
    index.write_text(damage(whole))
    assert labels_of(tar) == [0, 1, 2]
    assert index.read_text() == whole


def test_a_file_that_is_not_an_index_is_not_overwritten(tmp_path: Path) -> None:
    tar = tar_of(tmp_path / "set.tar", 3)
    (tmp_path / "set.idx").write_text("a file of the user\n")
    with pytest.raises(DataError, match=f"set.idx: not an index of {tar}, but .* Rename or remove it"):
        labels_of(tar)
    assert (tmp_path / "set.idx").read_text() == "a file of the user\n"


def test_a_name_too_long_for_an_index_is_scanned_each_time(tmp_path: Path) -> None:
    tar = tar_of(tmp_path / f"{'n' * 247}.x.tar", 3)
    assert labels_of(tar) == labels_of(tar) == [0, 1, 2]


def test_an_extension_with_a_space_is_read_back(tmp_path: Path) -> None:
    tar = tmp_path / "set.tar"
    write_tar(tar, [("a.jpg", b"\0"), ("a.my notes.txt", b"x"), ("a", b"y"), ("a.cls", b"0")])
    assert labels_of(tar) == labels_of(tar) == [0]
    assert list(by_index(tar)[0]) == ["jpg", "my notes.txt", "", "cls"]


KEYS = st.text(st.sampled_from(string.ascii_lowercase[:3] + " .%\t\n\x0b\x1c\x85\u2028é😀\udcff"), max_size=4)


@given(samples=st.lists(st.lists(KEYS, min_size=1, max_size=3, unique=True), max_size=4))
def test_property_an_index_is_read_back_as_it_was_written(
    samples: list[list[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("keys")
    try:
        tar = folder / "set.tar"
        write_tar(tar, [(f"{number}.{key}", b"") for number, keys in enumerate(samples) for key in keys])
        scanned = tarscan.scan(str(tar))
        assert [list(each) for each in scanned] == samples
        assert by_index(tar) == by_index(tar) == scanned
    finally:
        shutil.rmtree(folder)

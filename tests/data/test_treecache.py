"""Cached lists: used while the tree is unchanged, and never after it has changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from loaderlab.data import tree, treecache
from loaderlab.data.imagefolder import Listing, list_folder
from loaderlab.data.spec import DataError
from tests.conftest import tick

HOUR_NS = 3_600_000_000_000


def listed(root: Path) -> Listing:
    return list_folder(root, "data.root", lambda *_: None)


def names(root: Path) -> list[str]:
    paths = listed(root).files.paths
    return [os.path.relpath(paths[index], root.resolve()) for index in range(len(paths))]


def scanned(root: Path) -> list[str]:
    """The files without a cached list: class by class, a folder's files before those below it."""
    paths: list[str] = []
    for name in sorted(path.name for path in root.iterdir() if path.is_dir()):
        for folder, subfolders, files in os.walk(root / name, followlinks=True):
            subfolders.sort()
            paths += [os.path.relpath(os.path.join(folder, file), root) for file in sorted(files)]
    return paths


@pytest.fixture
def old_tree(own_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree that has not changed recently, with a cached list."""
    monkeypatch.setattr(tree, "RACY_NS", 0)
    (own_tree / "ant" / "deep").mkdir()
    shutil.copy(own_tree / "ant" / "00.jpg", own_tree / "ant" / "deep" / "z.jpg")
    (tmp_path / "elsewhere" / "wasps").mkdir(parents=True)
    shutil.copy(own_tree / "ant" / "00.jpg", tmp_path / "elsewhere" / "wasps" / "w.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (own_tree / "wasp").symlink_to(tmp_path / "link" / "wasps")
    tick(tmp_path)
    assert names(own_tree) == scanned(own_tree)
    tick(tmp_path)
    return own_tree


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders whose entries were read."""
    folders: list[str] = []
    entries = tree._entries

    def read(path: str) -> tree._Entries:
        folders.append(path)
        return entries(path)

    monkeypatch.setattr(tree, "_entries", read)
    return folders


def test_an_unchanged_tree_is_not_read_again(old_tree: Path, reads: list[str]) -> None:
    first = treecache.load(old_tree)
    assert first is not None
    again = listed(old_tree)
    assert reads == []
    assert names(old_tree) == scanned(old_tree)
    assert again.files.labels.tolist() == [0] * 14 + [1] * 10 + [2]
    assert (again.tree.classes, again.tree.others, again.note) == (["ant", "bee", "wasp"], 0, None)
    treecache._path(old_tree).unlink()
    assert listed(old_tree).tree.digest == first.digest


def put_back_time(root: Path) -> None:
    before = (root / "ant").stat()
    (root / "ant" / "00.jpg").unlink()
    os.utime(root / "ant", ns=(before.st_atime_ns, before.st_mtime_ns))


def point_elsewhere(root: Path) -> None:
    shutil.copytree(root.parent / "elsewhere", root.parent / "other")
    (root.parent / "other" / "wasps" / "w.jpg").rename(root.parent / "other" / "wasps" / "v.jpg")
    (root.parent / "link").unlink()
    (root.parent / "link").symlink_to(root.parent / "other")


@pytest.mark.parametrize(
    "change",
    [
        lambda root: shutil.copy(root / "ant" / "00.jpg", root / "ant" / "new.jpg"),
        lambda root: (root / "ant" / "00.jpg").unlink(),
        lambda root: (root / "ant" / "00.jpg").rename(root / "ant" / "99.jpg"),
        lambda root: (root / "ant" / "00.jpg").rename(root / "bee" / "00_.jpg"),
        lambda root: (root / "ant" / "deep" / "z.jpg").rename(root / "ant" / "deep" / "y.jpg"),
        lambda root: shutil.copytree(root / "ant", root / "cat"),
        lambda root: shutil.rmtree(root / "bee"),
        lambda root: (root / "ant").rename(root / "cow"),
        lambda root: shutil.copy(root / "ant" / "00.jpg", root.parent / "elsewhere" / "wasps" / "v.jpg"),
        point_elsewhere,
        put_back_time,
    ],
    ids=[
        "added",
        "removed",
        "renamed",
        "moved",
        "nested",
        "class-added",
        "class-removed",
        "class-renamed",
        "behind-a-link",
        "link-moved",
        "time-put-back",
    ],
)
def test_a_change_is_detected(change: Callable[[Path], object], old_tree: Path, reads: list[str]) -> None:
    before = names(old_tree)
    assert reads == []
    change(old_tree)
    assert scanned(old_tree) != before
    assert names(old_tree) == scanned(old_tree)


def test_a_tree_changed_just_now_is_read_again(
    own_tree: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tree, "RACY_NS", HOUR_NS)
    listed(own_tree)
    assert len(reads) == 3
    listed(own_tree)
    assert len(reads) == 6
    monkeypatch.setattr(tree, "RACY_NS", 0)
    tick(tmp_path)
    listed(own_tree)
    listed(own_tree)
    assert len(reads) == 9


def test_a_dangling_link_may_become_a_class(old_tree: Path, tmp_path: Path) -> None:
    (old_tree / "yak").symlink_to(tmp_path / "later")
    tick(tmp_path)
    assert "yak" not in listed(old_tree).tree.classes
    shutil.copytree(old_tree / "bee", tmp_path / "later")
    assert "yak" in listed(old_tree).tree.classes


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "foreign", "other root"])
def test_a_damaged_list_is_made_again(damage: str, old_tree: Path, image_tree: Path, reads: list[str]) -> None:
    cached = treecache._path(old_tree)
    content = bytearray(cached.read_bytes())
    match damage:
        case "flipped":
            content[-100] ^= 1
        case "cut":
            content = content[:-100]
        case "empty":
            content = bytearray()
        case "foreign":
            content = bytearray(b"something else\n" * 100)
        case "other root":
            listed(image_tree)
            content = bytearray(treecache._path(image_tree.resolve()).read_bytes())
            reads.clear()
    cached.write_bytes(content)
    assert names(old_tree) == scanned(old_tree)
    assert len(reads) == 5
    listed(old_tree)
    assert len(reads) == 5


def test_a_list_that_cannot_be_cached_is_noted(
    own_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "below"))
    for count in (3, 6):
        listing = listed(own_tree)
        assert listing.note is not None
        assert "the file list of data.root could not be cached under" in listing.note
        assert "XDG_CACHE_HOME" in listing.note
        assert len(reads) == count
    assert names(own_tree) == scanned(own_tree)


def test_an_interrupted_write_leaves_nothing(old_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    before = sorted(treecache.folder().iterdir())
    monkeypatch.setattr("os.replace", interrupted)
    treecache._path(old_tree).write_bytes(b"")
    with pytest.raises(KeyboardInterrupt):
        listed(old_tree)
    assert sorted(treecache.folder().iterdir()) == before


def test_only_its_user_may_read_a_list(old_tree: Path) -> None:
    assert treecache._path(old_tree).stat().st_mode & 0o777 == 0o600


def test_a_folder_that_cannot_be_read_is_named(old_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(path: str) -> tree._Entries:
        raise PermissionError(13, "Permission denied", path)

    treecache._path(old_tree).unlink()
    monkeypatch.setattr(tree, "_entries", closed)
    with pytest.raises(DataError, match=f"cannot read the folder {old_tree}.*Permission denied"):
        listed(old_tree)

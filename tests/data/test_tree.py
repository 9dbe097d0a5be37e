"""Trees with links and hidden entries: the list is compared with a walk made here. Links that lead back up are refused."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loaderlab.config import TransformConfig
from loaderlab.data import tree, treecache
from loaderlab.data.imagefolder import build, list_folder
from loaderlab.data.paths import PathTable
from loaderlab.data.spec import DataError, DataSpec, ImageFiles
from loaderlab.data.tree import Tree, scan
from tests.conftest import tick

NUM_FILES = 40  # of each of two classes


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    root = tmp_path / "pets"
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True)
        for number in range(NUM_FILES):
            (root / label / f"{number}.jpg").touch()
    return root


def spec_of(root: Path) -> DataSpec:
    return build("imagefolder", root, None, 0.0, 0, TransformConfig(image_size=16), lambda *_: None)


def class_counts(spec: DataSpec) -> dict[str, int]:
    assert isinstance(spec.train.source, ImageFiles)
    counts = Counter(spec.train.source.labels.tolist())
    return {name: counts[label] for label, name in enumerate(spec.classes)}


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("cat/loop", ".."),
        ("cat/loop", "."),
        ("cat/deep/er/loop", "../.."),
        ("cat/loop", "../.."),
        ("cat/loop", "/"),
        ("loop", "."),
        ("loop", ".."),
    ],
)
def test_a_link_that_leads_back_up_is_named(link: str, target: str, pets: Path) -> None:
    (pets / link).parent.mkdir(parents=True, exist_ok=True)
    (pets / link).symlink_to(target)
    with pytest.raises(DataError) as refused:
        spec_of(pets)
    leads_to = (pets / link).resolve()
    assert str(refused.value) == (
        f"data.root={pets}: the link {pets / link} leads back up to {leads_to}, so its files would be listed many times. "
        "Remove the link"
    )
    (pets / link).unlink()
    assert class_counts(spec_of(pets)) == {"cat": NUM_FILES, "dog": NUM_FILES}


def test_a_link_back_through_another_folder_is_named(pets: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (pets / "cat" / "there").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(pets / "cat")
    with pytest.raises(DataError, match=f"the link {pets}/cat/there/back leads back up to {pets}/cat,"):
        spec_of(pets)


def test_a_link_added_after_the_list_was_cached_is_named(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "RACY_NS", 0)
    tick(pets.parent)
    spec_of(pets)
    (pets / "cat" / "loop").symlink_to("..")
    with pytest.raises(DataError, match="leads back up"):
        spec_of(pets)


def test_links_elsewhere_are_followed(pets: Path, tmp_path: Path) -> None:
    """A class, a folder below it and a file may lie on another disk."""
    shutil.copytree(pets / "dog", tmp_path / "elsewhere")
    (pets / "emu").symlink_to(tmp_path / "elsewhere")
    shutil.copytree(pets / "dog", tmp_path / "second")
    (pets / "cat" / "more").symlink_to(tmp_path / "second")
    (pets / "dog" / "one.jpg").symlink_to(tmp_path / "second" / "0.jpg")
    spec = spec_of(pets)
    assert class_counts(spec) == {"cat": 2 * NUM_FILES, "dog": NUM_FILES + 1, "emu": NUM_FILES}
    assert spec.notes == ()


def test_a_folder_that_is_reached_twice_is_noted(pets: Path) -> None:
    (pets / "cat" / "dogs").symlink_to("../dog")
    for _ in range(2):  # listed, then cached
        spec = spec_of(pets)
        assert class_counts(spec) == {"cat": 2 * NUM_FILES, "dog": NUM_FILES}
        assert spec.notes == (
            "1 folders under data.root are reached twice through symbolic links, so their samples are listed twice and may be "
            "in training and validation: dog",
        )


def test_hidden_folders_and_files_are_skipped(pets: Path) -> None:
    before = spec_of(pets).digest
    shutil.copytree(pets / "cat", pets / "cat" / ".ipynb_checkpoints")
    shutil.copytree(pets / "cat", pets / ".ipynb_checkpoints")
    (pets / "cat" / "deep" / ".hidden").mkdir(parents=True)
    (pets / "cat" / "deep" / ".hidden" / "x.jpg").touch()
    (pets / "dog" / "._0.jpg").touch()
    (pets / "dog" / ".loop").symlink_to("..")
    Path(os.fsdecode(os.fsencode(pets) + b"/dog/.\xe9.jpg")).touch()
    spec = spec_of(pets)
    assert class_counts(spec) == {"cat": NUM_FILES, "dog": NUM_FILES}
    assert spec.digest == before
    assert spec.notes == ("6 hidden folders and files under data.root were skipped: their names begin with a dot",)


def test_a_list_made_by_other_rules_is_not_used(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "RACY_NS", 0)
    tick(pets.parent)
    spec_of(pets)
    assert treecache.load(pets) is not None
    monkeypatch.setattr(treecache, "RULES", "others")
    assert treecache.load(pets) is None


FOLDERS = ["a", "a/c", "a/c/d", "b", "b/c", ".h", "a/.h", "b/c/.h"]
ENTRIES = st.sampled_from(["x.jpg", "y.PNG", ".z.jpg", "notes.txt", "w.v2.jpg", "é ü.gif"])
LINKS = st.tuples(
    st.sampled_from([name for name in FOLDERS if name != ".h"]) | st.just("."),
    st.sampled_from(["l", "m", ".n", "k.jpg"]),
    st.sampled_from(["a", "a/c", "a/c/d", "b", "b/c", ".", "..", "a/x.jpg", "../away", "../away/e", "gone"]),
)


def grow(base: Path, files: list[tuple[str, str]], links: list[tuple[str, str, str]]) -> Path:
    root = base / "root"
    for folder in [*FOLDERS, "../away/e"]:
        os.makedirs(os.path.normpath(root / folder), exist_ok=True)
    (base / "away" / "e" / "x.jpg").touch()
    for folder, name in [("a", "x.jpg"), ("b", "x.jpg"), *files]:
        (root / folder / name).touch()
    for folder, name, target in links:
        (root / folder / name).symlink_to(os.path.normpath(root / target))
    return root


class EndlessError(Exception):
    pass


def walk(path: Path, depth: int, shown: str) -> tuple[list[str], list[str], int]:
    """The files below a folder, the folders (by the names they are reached by), and the number of hidden entries.

    Raises:
        EndlessError: the folders are nested deeper than possible without a link that leads back up.
    """
    if depth > len(FOLDERS) + 4:
        raise EndlessError
    files: list[str] = []
    folders, hidden = [shown], 0
    for entry in sorted(path.iterdir()):
        if entry.name[0] == ".":
            hidden += 1
        elif entry.is_dir():
            below = walk(entry, depth + 1, f"{shown}/{entry.name}")
            files, folders, hidden = files + below[0], folders + below[1], hidden + below[2]
        elif entry.suffix.lower() in (".jpg", ".png", ".gif"):
            files.append(f"{shown}/{entry.name}")
    return files, folders, hidden


def walked(root: Path) -> tuple[dict[str, tuple[list[str], list[str], int]], str]:
    """`walk` of each class, and the reason why a class must be refused, if there is one."""
    classes = {}
    for name in sorted(entry.name for entry in root.iterdir() if entry.is_dir() and entry.name[0] != "."):
        try:
            classes[name] = walk(root / name, 1, name)
        except EndlessError:
            return classes, "leads back up"
        if not classes[name][0]:
            return classes, f"class folder {name} contains no image"
    return classes, ""


def names_of(listed: Tree) -> list[str]:
    table = PathTable(Path("/"), listed.arrays, listed.endings)
    return [table[index].lstrip("/") for index in range(len(table))]


@given(
    files=st.lists(st.tuples(st.sampled_from(FOLDERS), ENTRIES), max_size=6),
    links=st.lists(LINKS, max_size=3, unique_by=lambda link: link[:2]),
)
def test_property_the_list_of_a_tree_is_that_of_a_walk(
    files: list[tuple[str, str]], links: list[tuple[str, str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = tmp_path_factory.mktemp("tree").resolve()
    try:
        root = grow(base, files, links)
        expected, refused = walked(root)
        if refused:
            with pytest.raises(DataError, match=refused):
                scan(root, "data.root", lambda *_: None)
            return
        listed = scan(root, "data.root", lambda *_: None)
        assert listed.classes == list(expected)
        assert listed.arrays["counts"].tolist() == [len(names) for names, _, _ in expected.values()]
        assert sorted(names_of(listed)) == sorted(name for names, _, _ in expected.values() for name in names)
        reached = Counter(os.path.realpath(root / name) for _, folders, _ in expected.values() for name in folders)
        assert len(listed.repeated) == reached.total() - len(reached)
        assert listed.hidden == sum(entry.name[0] == "." for entry in root.iterdir()) + sum(
            hidden for _, _, hidden in expected.values()
        )
    finally:
        shutil.rmtree(base)


def add(root: Path) -> None:
    (root / "a" / f"{len(os.listdir(root / 'a'))}.jpg").touch()


def remove(root: Path) -> None:
    if len(files := sorted((root / "b").glob("*.jpg"))) > 1:
        files[-1].unlink()


def rename(root: Path) -> None:
    (root / "b" / "x.jpg").rename(root / "b" / "y.jpg")
    (root / "b" / "y.jpg").rename(root / "b" / f"x{len(os.listdir(root / 'b'))}.jpg")
    (root / "b" / "x.jpg").touch()


def swap(root: Path) -> None:
    """Replaces a folder by another one with the same time, as `rsync -a` does."""
    before = (root / "a" / "c").stat()
    shutil.copytree(root / "a" / "c", root / "new")
    (root / "new" / f"s{len(os.listdir(root / 'new'))}.jpg").touch()
    shutil.rmtree(root / "a" / "c")
    (root / "new").rename(root / "a" / "c")
    os.utime(root / "a" / "c", ns=(0, before.st_mtime_ns))


def link(root: Path) -> None:
    (root / "a" / f"l{len(os.listdir(root / 'a'))}").symlink_to(root.parent / "away" / "e")


def behind(root: Path) -> None:
    (root.parent / "away" / "e" / f"{len(os.listdir(root.parent / 'away' / 'e'))}.jpg").touch()


CHANGES: list[Callable[[Path], None]] = [add, remove, rename, swap, link, behind]


@given(changes=st.lists(st.tuples(st.sampled_from(CHANGES), st.booleans()), min_size=1, max_size=2))
def test_property_a_cached_list_is_used_only_for_the_same_tree(
    changes: list[tuple[Callable[[Path], None], bool]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Also if the times of folders are set back."""
    base = tmp_path_factory.mktemp("kept").resolve()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tree, "RACY_NS", 0)
            patch.setattr(tree, "READERS", 1)  # threads cost more than these folders
            root = grow(base, [], [])
            for change, put_back in changes:
                tick(base)
                list_folder(root, "data.root", lambda *_: None)
                times = {path: path.stat().st_mtime_ns for path in (root, root / "a", root / "b", root / "a" / "c")}
                change(root)
                for path, mtime_ns in times.items():
                    if put_back:
                        os.utime(path, ns=(0, mtime_ns))
                listed = list_folder(root, "data.root", lambda *_: None).tree
                assert sorted(names_of(listed)) == sorted(
                    name for names, _, _ in walked(root)[0].values() for name in names
                )
    finally:
        treecache._path(root).unlink(missing_ok=True)
        shutil.rmtree(base)

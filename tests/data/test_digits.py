"""The digits on disk: complete, reproducible, checked, and never half written."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from loaderlab.config import DigitsData, TransformConfig
from loaderlab.data import digits
from loaderlab.data.spec import DataError, ImageFiles


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    seen: list[tuple[int, int]] = []
    digits.build(config(root), lambda done, total: seen.append((done, total)))
    assert seen[0] == (1, 1797)
    assert seen[-1] == (1797, 1797)
    return root / "32px_420_q90"


def config(root: Path) -> DigitsData:
    return DigitsData(root=str(root), image_px=32, subsampling="420", transform=TransformConfig(image_size=16))


def nothing(_done: int, _total: int) -> None:
    raise AssertionError("nothing may be written")


def test_the_tree_contains_all_digits_of_every_class(tree: Path) -> None:
    spec = digits.build(config(tree.parent), nothing)
    assert spec.val is not None
    assert isinstance(spec.train.source, ImageFiles)
    assert (len(spec.train.source), spec.val.num_samples) == (1438, 359)
    assert spec.classes == tuple("0123456789")
    assert spec.sample_shape == (3, 16, 16)
    counts = Counter(spec.train.source.labels.tolist())
    assert min(counts.values()) > 130
    path = Path(spec.train.source.paths[0])
    with Image.open(path) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (32, 32))
        assert image.layer[0][1:3] == (2, 2)  # type: ignore[attr-defined]  # luma at twice the chroma's resolution
    assert path.parent.name == str(spec.train.source.labels[0])


def test_writing_it_twice_gives_the_same_files(tree: Path, tmp_path: Path) -> None:
    digits.build(config(tmp_path), lambda *_: None)
    assert (tmp_path / tree.name / digits.MANIFEST).read_text() == (tree / digits.MANIFEST).read_text()


def test_a_changed_missing_or_added_file_is_refused(tree: Path, tmp_path: Path) -> None:
    import shutil

    name = next(iter(json.loads((tree / digits.MANIFEST).read_text())["sha256"]))
    for spoil in ("change", "remove", "add", "manifest"):
        folder = Path(shutil.copytree(tree, tmp_path / spoil / tree.name))
        match spoil:
            case "change":
                (folder / name).write_bytes(b"other")
            case "remove":
                (folder / name).unlink()
            case "add":
                shutil.copy(folder / name, folder / "train" / "3" / "9999.jpg")
            case "manifest":
                (folder / digits.MANIFEST).write_text("{")
        with pytest.raises(DataError, match=f"rm -r {folder}"):
            digits.build(config(tmp_path / spoil), nothing)


def test_an_interrupted_preparation_leaves_no_tree(tmp_path: Path) -> None:
    def interrupt(done: int, _total: int) -> None:
        if done == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        digits.build(config(tmp_path), interrupt)
    assert list(tmp_path.iterdir()) == []
    digits.build(config(tmp_path), lambda *_: None)
    assert [path.name for path in tmp_path.iterdir()] == ["32px_420_q90"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="data.root="):
        digits.build(config(tmp_path / "file" / "below"), lambda *_: None)


def test_a_picture_that_does_not_fit_in_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loaderlab.data.room.available_memory", lambda: 10**9)
    large = DigitsData(root=str(tmp_path), image_px=60_000)
    with pytest.raises(DataError, match=r"data\.image_px=60000: .* 21\.6 GB of memory, but 1\.0 GB are available"):
        digits.build(large, nothing)


def test_digits_that_do_not_fit_on_the_disk_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**6))
    with pytest.raises(DataError, match=r"data\.image_px=32: 1,797 files .* 0\.0 GB are free under data\.root"):
        digits.build(config(tmp_path), nothing)
    assert list(tmp_path.iterdir()) == []

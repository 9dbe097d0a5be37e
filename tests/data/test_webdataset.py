"""WebDataset tar files: matched, indexed, read by position, in the documented order."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loaderlab import data, loaders
from loaderlab.config import DaliLoader, LoaderConfig, NativeLoader, SpdlLoader, TransformConfig, WebDatasetData
from loaderlab.data import shardindex
from loaderlab.data.spec import Blocks, DataError, DataSpec, TarImages
from loaderlab.device.cpu import Cpu
from loaderlab.loaders.contract import EpochPlan
from tests.conftest import picture, write_tar

SIZES = (7, 9, 5)  # samples of each file


def jpeg(index: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture(30, 40, index)).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture(scope="session")
def tar_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tar files. Sample i has picture i and class i % 4."""
    folder = tmp_path_factory.mktemp("tars")
    first = 0
    for number, size in enumerate(SIZES):
        members = []
        for index in range(first, first + size):
            members += [(f"set/{index:03d}.cls", str(index % 4).encode()), (f"set/{index:03d}.jpg", jpeg(index))]
        write_tar(folder / f"part-{number:02d}.tar", members)
        first += size
    return folder


@pytest.fixture
def own_tars(tar_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tar_folder, tmp_path / "tars"))


def spec_of(shards: object, **settings: Any) -> DataSpec:
    config = WebDatasetData(shards=str(shards), transform=TransformConfig(image_size=16), **settings)
    return data.build(config, lambda *_: None)


def source_of(spec: DataSpec) -> TarImages:
    assert isinstance(spec.train.source, TarImages)
    return spec.train.source


def test_samples_are_read_by_position(own_tars: Path) -> None:
    source = source_of(spec_of(own_tars, val_fraction=0.0))
    assert len(source) == sum(SIZES)
    assert source.labels.tolist() == [index % 4 for index in range(sum(SIZES))]
    assert [source.read(index).tobytes() for index in range(21)] == [jpeg(index) for index in range(21)]
    assert source.name(8) == f"{own_tars / 'part-01.tar'}: set/008.jpg"
    assert source.files(np.array([0, 1, 20])) == [str(own_tars / f"part-0{number}.tar") for number in (0, 2)]


@pytest.mark.parametrize("pattern", ["", "part-*.tar", "part-{00..02}.tar"])
def test_ways_to_name_the_files(pattern: str, own_tars: Path) -> None:
    spec = spec_of(own_tars / pattern, val_shards=str(own_tars / "part-00.tar"))
    assert (spec.train.num_samples, spec.val and spec.val.num_samples, len(spec.classes)) == (21, 7, 4)


def test_whole_files_are_reserved_for_validation(own_tars: Path) -> None:
    spec = spec_of(own_tars)
    assert spec.val is not None
    assert isinstance(spec.val.source, TarImages)
    assert not set(spec.val.source.shards) & set(source_of(spec).shards)
    assert len(spec.val.source.shards) == 1
    assert spec_of(own_tars / "part-00.tar").val is None  # the only one is for training


def test_the_index_is_written_once_and_dali_reads_it(own_tars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nvidia.dali import fn
    from nvidia.dali.pipeline import Pipeline

    before = source_of(spec_of(own_tars, val_fraction=0.0))
    monkeypatch.setattr(shardindex, "scan", lambda _: pytest.fail("the index is there"))
    again = source_of(spec_of(own_tars, val_fraction=0.0))
    assert (again.offsets == before.offsets).all()
    assert (again.sizes == before.sizes).all()
    pipeline = Pipeline(batch_size=7, num_threads=1, device_id=None)
    with pipeline:
        paths, indexes = ([str(own_tars / f"part-00.{kind}")] for kind in ("tar", "idx"))
        pipeline.set_outputs(*fn.readers.webdataset(paths=paths, index_paths=indexes, ext=["jpg", "cls"]))
    images, labels = pipeline.run()
    assert [np.asarray(images.at(at)).tobytes() for at in range(7)] == [jpeg(index) for index in range(7)]
    assert [int(np.asarray(labels.at(at)).tobytes()) for at in range(7)] == [0, 1, 2, 3, 0, 1, 2]


def test_an_index_by_wds2idx_is_read(own_tars: Path) -> None:
    from wds2idx import IndexCreator

    before = source_of(spec_of(own_tars, val_fraction=0.0))
    for tar in own_tars.glob("*.tar"):
        with IndexCreator(str(tar), str(tar.with_suffix(".idx")), verbose=False) as creator:
            creator.create_index()
    again = source_of(spec_of(own_tars, val_fraction=0.0))
    assert (again.offsets == before.offsets).all()


def test_a_newer_tar_file_is_indexed_again(own_tars: Path) -> None:
    spec_of(own_tars)
    tar = own_tars / "part-00.tar"
    write_tar(tar, [("x.jpg", jpeg(1)), ("x.cls", b"3")])
    later = (own_tars / "part-00.idx").stat().st_mtime_ns + 1
    os.utime(tar, ns=(later, later))
    assert source_of(spec_of(tar)).labels.tolist() == [3]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.jpg", b"x")], "no label cls"),
        ([("a.cls", b"1")], "none of the images jpg"),
        ([("a.jpg", b"x"), ("a.cls", b"cat")], "a class index is needed"),
        ([], "contains no sample"),
    ],
)
def test_a_sample_with_a_missing_member_is_refused(
    members: list[tuple[str, bytes]], message: str, tmp_path: Path
) -> None:
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(DataError, match=message) as refused:
        spec_of(tmp_path)
    assert str(tmp_path / "a.tar") in str(refused.value)


def test_no_tar_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no tar file"):
        spec_of(tmp_path)
    (tmp_path / "a.tar").write_bytes(b"no tar file" * 100)
    with pytest.raises(DataError, match="not a complete, uncompressed tar file"):
        spec_of(tmp_path)
    (tmp_path / "a.tar").rename(tmp_path / "1.tar")
    with pytest.raises(DataError, match="2 of 3 files are missing"):
        spec_of(tmp_path / "{0..2}.tar")


def test_order_is_by_file_and_block() -> None:
    ends = np.cumsum([50, 30, 40])
    blocks = Blocks(ends, 16)
    order = blocks.shuffled(np.random.default_rng(3))
    assert sorted(order.tolist()) == list(range(120))
    shards = np.searchsorted(ends, order, side="right")
    whole = np.concatenate(
        [
            np.flatnonzero(np.searchsorted(ends, np.arange(120), side="right") == shard)
            for shard in dict.fromkeys(shards.tolist())
        ]
    )
    for start in range(0, 120, 16):  # each block has the same samples as in file order, but shuffled
        assert sorted(order[start : start + 16].tolist()) == sorted(whole[start : start + 16].tolist())
    assert order.tolist() != whole.tolist()
    assert order.tolist() != blocks.shuffled(np.random.default_rng(4)).tolist()


def test_a_set_with_several_dots_in_its_names_has_a_short_message(tmp_path: Path) -> None:
    """All its members share the part before the first dot, so they are one sample."""
    members = [(f"img.v1.{number:03d}.{kind}", b"0") for number in range(30) for kind in ("jpg", "cls")]
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(DataError) as refused:
        spec_of(tmp_path)
    message = str(refused.value).removeprefix(str(tmp_path))
    assert "has v1.000.jpg, v1.000.cls, v1.001.jpg and 57 more members (an extension begins at the first dot" in message
    assert len(message) < 300


def test_a_tar_file_that_is_also_named_by_a_link_is_noted(own_tars: Path) -> None:
    assert spec_of(own_tars).notes == ()
    (own_tars / "again.tar").symlink_to("part-00.tar")
    spec = spec_of(own_tars, val_fraction=0.0)
    assert len(source_of(spec)) == sum(SIZES) + SIZES[0]
    assert [note[:40] for note in spec.notes] == ["1 of 4 tar files are named twice, by sym"]
    spec = spec_of(own_tars / "part-*.tar", val_shards=str(own_tars / "part-01.tar"))
    assert [note[:40] for note in spec.notes] == ["1 of 4 tar files are named twice, by sym"]


@pytest.mark.parametrize("config", [NativeLoader(num_workers=0), SpdlLoader(num_threads=1), DaliLoader(num_threads=1)])
def test_a_tar_file_that_is_gone_is_named(config: LoaderConfig, own_tars: Path) -> None:
    spec = spec_of(own_tars / "part-00.tar")
    (own_tars / "part-00.tar").unlink()
    loader = loaders.build(config, spec.train, EpochPlan(SIZES[0], 1, False, False), Cpu())
    try:
        with pytest.raises(DataError, match=r"part-00\.tar: byte 1\d+: cannot be decoded: No such file"):
            next(iter(loader.epoch(0)))
    finally:
        loader.close()

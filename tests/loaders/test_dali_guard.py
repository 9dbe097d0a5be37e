"""What keeps damaged images from DALI's decoder: before and after a file has been decoded, and with both checks of the header."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline
from PIL import Image

from loaderlab import data, loaders
from loaderlab.config import DaliLoader, EncodedData, ImageFolderData, TransformConfig, WebDatasetData
from loaderlab.data.spec import DataError
from loaderlab.device.cpu import Cpu
from loaderlab.loaders import dali_graph, dali_guard
from loaderlab.loaders.contract import EpochPlan
from loaderlab.loaders.dali import Dali
from loaderlab.loaders.header import header_accepted
from tests.conftest import write_tar
from tests.loaders.damage import JPEG, SCAN, as_bomb

WHOLE = TransformConfig(image_size=24, train_crop="center", flip=0.0)
MAX_PIXELS = 3_000_000
BYTES = [1_000, 5_859, 5_860, 12_000]  # 5,859.4 x 512 = MAX_PIXELS


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def file_of(kind: str, width: int, height: int, num_bytes: int) -> bytes:
    """A file of so many bytes whose header gives this size. It cannot be decoded."""
    if kind == "PNG":
        size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", bytes(num_bytes - 57)) + chunk(b"IEND", b"")
    at = JPEG.index(b"\xff\xc0") + 5
    header = JPEG[:at] + struct.pack(">HH", height, width) + JPEG[at + 4 : SCAN + 20]
    return header + bytes(num_bytes - len(header))


class Check:
    """A check of `dali_guard` on single files, without a decoder. DALI's pipelines are invalid after an error."""

    def __init__(self, check: Callable[[Any, int], Any]) -> None:
        self._check, self._pipeline = check, self._built(check)

    def _built(self, check: Callable[[Any, int], Any]) -> Pipeline:
        pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1, exec_dynamic=True)
        with pipeline:
            pipeline.set_outputs(check(fn.external_source(name="encoded", batch=True), MAX_PIXELS))
        return dali_graph.build(pipeline)

    def output(self, content: bytes) -> np.ndarray | None:
        """None if the pipeline fails."""
        self._pipeline.feed_input("encoded", [np.frombuffer(content, np.uint8)])
        try:
            (output,) = self._pipeline.run()
        except RuntimeError:
            self._pipeline = self._built(self._check)
            return None
        return np.array(output.as_array()[0])


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_cheap_check_accepts_only_what_the_exact_one_accepts(kind: str) -> None:
    """For sizes on both sides of every limit. The exact check decides as the host's loaders do."""
    cheap, exact = Check(dali_guard.refuse_implausible), Check(dali_guard.is_plausible)
    outcomes = set()
    for num_bytes in BYTES:
        for limit in (256 * num_bytes, 512 * num_bytes, MAX_PIXELS):
            for pixels in (limit - 256, limit - 1, limit, limit + 1, limit + 511, 3 * limit):
                width = 1 if kind == "PNG" else 1 + pixels // 65_535  # a JPEG has 16 bits for each
                content = file_of(kind, width, pixels // width, num_bytes)
                passed, plausible = cheap.output(content), exact.output(content)
                assert plausible is not None
                assert plausible == header_accepted(np.frombuffer(content, np.uint8), MAX_PIXELS)
                if passed is not None:
                    assert plausible
                    assert passed.tobytes() == content
                outcomes.add((passed is not None, bool(plausible)))
    assert outcomes == {(False, False), (False, True), (True, True)}


def test_both_checks_fail_for_a_header_that_cannot_be_parsed() -> None:
    for check in (dali_guard.refuse_implausible, dali_guard.is_plausible):
        for content in (b"no image" * 50, JPEG[:100], b"\xff\xd8\xff\xe0" + bytes(90)):
            assert Check(check).output(content) is None


def flat_png() -> bytes:
    """A white mask of 1,000 x 1,000 pixels of one bit, thousands for each of its bytes."""
    file = io.BytesIO()
    Image.new("1", (1000, 1000), 1).save(file, "PNG")
    assert len(file.getvalue()) < 1000
    return file.getvalue()


def tar_of(tree: Path, folder: Path) -> WebDatasetData:
    """The files of a tree as the samples of a tar file."""
    members: list[tuple[str, bytes]] = []
    for number, path in enumerate(sorted(path for path in tree.rglob("*.*"))):
        members += [(f"{number:03d}{path.suffix}", path.read_bytes()), (f"{number:03d}.cls", b"0")]
    write_tar(folder / "set.tar", members)
    return WebDatasetData(shards=str(folder), image_keys="jpg png", val_fraction=0.0, transform=WHOLE)


@contextlib.contextmanager
def dali(config: EncodedData, num_samples: int) -> Iterator[Dali]:
    split = data.build(config, lambda *_: None).train
    with contextlib.closing(
        loaders.build(DaliLoader(num_threads=1), split, EpochPlan(num_samples, 4, False, False), Cpu())
    ) as loader:
        assert isinstance(loader, Dali)
        yield loader


def folder(tree: Path, on_error: str = "skip") -> ImageFolderData:
    return ImageFolderData(root=str(tree), val_fraction=0.0, on_error=on_error, max_skipped=1.0, transform=WHOLE)


@pytest.mark.parametrize("source", ["files", "tar"])
def test_a_good_image_that_the_cheap_check_refuses_is_delivered(source: str, own_tree: Path, tmp_path: Path) -> None:
    (own_tree / "ant" / "05a.png").write_bytes(flat_png())
    (tmp_path / "tar").mkdir()
    config = folder(own_tree, "error") if source == "files" else tar_of(own_tree, tmp_path / "tar")
    with dali(config, 24) as loader:
        batches = list(loader.epoch(0))
        ids = [index for batch in batches if batch.ids is not None for index in batch.ids.tolist()]
        assert ids == list(range(24))
        assert (batches[1].inputs[2] == 255).all()
        assert not loader.broken
        assert len(list(loader.epoch(1))) == 6


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a bomb of the same size": as_bomb,
    "only the header": lambda content: JPEG[:SCAN],
    "more pixels than its bytes": lambda content: as_bomb(content).replace(b"\xff" * 4, b"\x20\0\x20\0", 1),
    "text": lambda content: b"no image" * 50,
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("exact", [False, True], ids=["cheap", "exact"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_is_damaged_after_it_was_decoded_is_named(damage: str, exact: bool, own_tree: Path) -> None:
    """Its time of modification stays the same, and in one case its size, as if nothing had changed."""
    if exact:
        (own_tree / "ant" / "05a.png").write_bytes(flat_png())
    victim = own_tree / "bee" / "03.jpg"
    number = 16 + exact
    with dali(folder(own_tree), 23 + exact) as loader:
        for epoch in (0, 1):
            assert len(list(loader.epoch(epoch))) == 6
        assert not loader.broken
        before = victim.stat()
        victim.write_bytes(DAMAGE[damage](victim.read_bytes()))
        os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
        for epoch in (2, 3):
            assert len(list(loader.epoch(epoch))) == 6
        assert set(loader.broken) == {number}
        assert str(victim) in loader.broken[number]


def test_without_skipping_the_damaged_file_ends_the_epoch(own_tree: Path) -> None:
    victim = own_tree / "bee" / "03.jpg"
    with dali(folder(own_tree, "error"), 23) as loader:
        list(loader.epoch(0))
        victim.write_bytes(as_bomb(victim.read_bytes()))
        with pytest.raises(DataError, match=r"bee/03\.jpg: cannot be decoded: 4,294,836,225 pixels"):
            list(loader.epoch(1))


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_the_resize_after_a_cropping_decoder_mirrors(flip: float, tmp_path: Path) -> None:
    """It replaces an operator, and gives the same pixels but for the rounding."""
    (tmp_path / "only").mkdir()
    ramp = np.tile(np.linspace(0, 255, 96).astype(np.uint8)[None, :, None], (96, 1, 3))
    Image.fromarray(ramp).save(tmp_path / "only" / "ramp.png")
    transform = TransformConfig(image_size=24, scale=[1.0, 1.0], ratio=[1.0, 1.0], flip=flip)
    with dali(ImageFolderData(root=str(tmp_path), val_fraction=0.0, transform=transform), 1) as loader:
        (batch,) = loader.epoch(0)
    row = batch.inputs[0, 0, 12].tolist()
    assert row == sorted(row, reverse=flip == 1.0)
    assert max(row) - min(row) > 200


def test_the_guarded_graphs_are_chosen_in_this_order(own_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exact check is only used once the cheap one has refused a good image, not for a damaged file."""
    exact: list[bool] = []
    compose = dali_graph.compose

    def composed(*args: Any, **options: Any) -> Pipeline:
        exact.append(options["exact"])
        return compose(*args, **options)

    monkeypatch.setattr(dali_graph, "compose", composed)
    (own_tree / "ant" / "01.jpg").write_bytes(b"no image" * 50)
    with dali(folder(own_tree), 23) as loader:
        list(loader.epoch(0))
        assert (set(loader.broken), exact) == ({1}, [False, False])
        (own_tree / "bee" / "09.jpg").write_bytes(flat_png())
        list(loader.epoch(1))
        assert (set(loader.broken), exact) == ({1}, [False, False, True])


@pytest.mark.parametrize("height", [1500, 1501])
def test_the_cheap_check_limits_the_pixels_of_a_large_file(height: int) -> None:
    content = file_of("JPEG", 2000, height, 1_000_000)
    assert header_accepted(np.frombuffer(content, np.uint8), MAX_PIXELS) == (height == 1500)
    assert (Check(dali_guard.refuse_implausible).output(content) is not None) == (height == 1500)

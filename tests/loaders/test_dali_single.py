"""Which processor decodes JPEGs with mixed decoding: the observation, its record, and that it costs nothing elsewhere.

There is no GPU here, so mixed decoding is replaced by functions of the CPU's pixels.
"""

from __future__ import annotations

import gc
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nvidia.dali.pipeline import Pipeline
from PIL import Image

from loaderlab import loaders
from loaderlab.config import DaliLoader
from loaderlab.data.spec import UINT8, ImageFiles
from loaderlab.device.base import Device
from loaderlab.device.capabilities import CPU
from loaderlab.device.cpu import Cpu
from loaderlab.device.cuda import Cuda
from loaderlab.loaders import dali_single
from loaderlab.loaders.contract import EpochPlan, Loader
from loaderlab.loaders.dali_single import DecoderChoice
from loaderlab.loaders.header import JPEG
from loaderlab.loaders.resolve import in_force
from loaderlab.parity.samples import OTHER_DECODER_LEVELS
from tests.loaders.test_contract import arrays_split, folder_split

GPU = replace(CPU, uses_host_cores=False, takes_copies=True, decodes_images=True)
CUDA = Cuda()
PLAN = EpochPlan(23, 4, False, False)
Mixed = Callable[[UINT8], UINT8]


def one_level_brighter(pixels: UINT8) -> UINT8:
    """Three of four values of the last copy differ by one level; the other copies are the same."""
    pixels = pixels.copy()
    pixels[-1].reshape(-1, 4)[:, :3] ^= 1
    return pixels


def fails(_: UINT8) -> UINT8:
    raise RuntimeError("Error when executing Mixed operator: no GPU\nstack")


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The decodings so far. Every device counts as a GPU."""
    calls: list[str] = []
    monkeypatch.setattr(Cuda, "capabilities", GPU)
    dali_single.jpeg_decoding.cache_clear()
    yield calls
    dali_single.jpeg_decoding.cache_clear()


def replace_mixed(mixed: Mixed, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    original = dali_single.decoded

    def decoded(encoded: UINT8, choice: DecoderChoice) -> UINT8:
        calls.append(choice.decode)
        pixels = original(encoded, replace(choice, decode="cpu"))
        return mixed(pixels) if choice.decode == "mixed" else pixels

    monkeypatch.setattr(dali_single, "decoded", decoded)


def built(config: DaliLoader, tree: Path, device: Device = CUDA) -> Loader:
    return loaders.build(config, folder_split(tree), PLAN, device)


def test_the_image_has_half_the_chroma_and_the_cpu_decodes_it() -> None:
    encoded = dali_single.noise_jpeg()
    with Image.open(io.BytesIO(encoded.tobytes())) as image:
        assert [layer[1:3] for layer in image.layer] == [(2, 2), (1, 1), (1, 1)]  # type: ignore[attr-defined]
        expected = np.asarray(image)
    pixels = dali_single.decoded(encoded, DecoderChoice("cpu", 0.65, None))
    assert pixels.shape == (dali_single.COPIES, *expected.shape)
    assert (pixels == expected).all()


@pytest.mark.parametrize(
    ("mixed", "processor", "levels", "note"),
    [
        (lambda pixels: pixels, "cpu", 0.0, "the CPU decodes the JPEGs, not the GPU"),
        (one_level_brighter, "gpu", 0.75, ""),
        (
            fails,
            "unknown",
            None,
            "it is not known which processor decodes: Error when executing Mixed operator: no GPU",
        ),
    ],
)
def test_the_processor_that_decodes_is_recorded(
    mixed: Mixed,
    processor: str,
    levels: float | None,
    note: str,
    decodings: list[str],
    image_tree: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replace_mixed(mixed, decodings, monkeypatch)
    loader = built(DaliLoader(num_threads=1), image_tree)
    assert loader.settings is not None
    values = in_force(loader.settings)
    assert values["decode"] == "mixed"
    assert values["jpeg_decoder"] == processor
    assert values["jpeg_difference_levels"] == (None if levels is None else str(levels))
    assert len(loader.notes) == bool(note)
    assert all(note in line and line.startswith("loader.decode=mixed: ") for line in loader.notes)
    assert loader.capabilities.decodes_on_device == (processor != "cpu")
    assert loader.capabilities.decoder_levels == (None if processor == "cpu" else levels)
    assert loader.capabilities.decode_on_device is None  # mixed decoding is already chosen


def test_it_is_observed_once_in_a_process(
    decodings: list[str], image_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_mixed(one_level_brighter, decodings, monkeypatch)
    for _ in range(3):
        built(DaliLoader(num_threads=1), image_tree)
    assert decodings == ["cpu", "mixed"]
    built(DaliLoader(num_threads=1, hw_decoder_load=0.5), image_tree)
    assert decodings == ["cpu", "mixed"] * 2


def test_its_pipelines_are_freed(decodings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, because freeing them later could interrupt a step. A garbage collection would take longer than the decodings."""
    replace_mixed(one_level_brighter, decodings, monkeypatch)
    gc.collect()
    gc.disable()
    try:
        before = sum(isinstance(each, Pipeline) for each in gc.get_objects())
        assert dali_single.jpeg_decoding(DecoderChoice("mixed", 0.65, 0)).processor == "gpu"
        assert sum(isinstance(each, Pipeline) for each in gc.get_objects()) == before
    finally:
        gc.enable()


def test_nothing_is_decoded_without_mixed_decoding(
    decodings: list[str], image_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU, with ``decode=cpu``, and for samples that are not encoded."""
    replace_mixed(fails, decodings, monkeypatch)
    for loader in (
        built(DaliLoader(num_threads=1), image_tree, Cpu()),
        built(DaliLoader(num_threads=1, decode="cpu"), image_tree),
        loaders.build(DaliLoader(num_threads=1), arrays_split(image_tree), PLAN, CUDA),
    ):
        assert loader.settings is not None
        assert in_force(loader.settings)["jpeg_decoder"] is None
        assert loader.notes == ()
    assert decodings == []


@pytest.mark.gpu
def test_a_gpu_decodes(decodings: list[str]) -> None:
    decoding = dali_single.jpeg_decoding(DecoderChoice("mixed", 0.65, 0))
    assert (decoding.processor, decoding.note) == ("gpu", "")
    assert decoding.mean_levels is not None
    assert decoding.mean_levels < OTHER_DECODER_LEVELS, "chroma is not interpolated as on the CPU"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can decode")
def test_without_a_gpu_mixed_decoding_is_unknown(decodings: list[str]) -> None:
    """DALI's own refusal becomes the note."""
    decoding = dali_single.jpeg_decoding(DecoderChoice("mixed", 0.65, 0))
    assert (decoding.processor, decoding.mean_levels) == ("unknown", None)
    assert "CUDA is not available" in decoding.note


def test_the_decoder_of_the_run_decides_which_samples_are_broken(
    own_tree: Path, decodings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a decoder on the GPU that accepts truncated files: then none is named, although the CPU's decoder refuses it."""
    truncated, text = sorted(own_tree.rglob("*.jpg"))[2:4]
    truncated.write_bytes(truncated.read_bytes()[:-400])
    text.write_bytes(b"no image" * 50)
    source = folder_split(own_tree).source
    assert isinstance(source, ImageFiles)

    class Tolerant:
        """Refuses what does not begin as a JPEG."""

        def feed_input(self, _name: str, encoded: list[UINT8]) -> None:
            self.accepted = encoded[0][:3].tobytes() == JPEG

        def run(self) -> None:
            if not self.accepted:
                raise RuntimeError("nvImageCodec failure")

    pipeline = DecoderChoice.pipeline

    def made(choice: DecoderChoice, num_images: int) -> Any:
        decodings.append(choice.decode)
        return Tolerant() if choice.decode == "mixed" else pipeline(choice, num_images)

    monkeypatch.setattr(DecoderChoice, "pipeline", made)
    on_cpu = dali_single.undecodable(source, range(5), 10**9, DecoderChoice("cpu", 0.65, None))
    on_gpu = dali_single.undecodable(source, range(5), 10**9, DecoderChoice("mixed", 0.65, 0))
    assert (set(on_cpu), set(on_gpu)) == ({2, 3}, {3})
    assert set(decodings) == {"cpu", "mixed"}

"""The warning about samples that an emulated accelerator's speed is not for."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loaderlab.config import AcceleratorConfig
from loaderlab.data import stored_size
from loaderlab.data.paths import PathPacker, PathTable
from loaderlab.data.spec import DataSpec, ImageArrays, ImageFiles, Source, Split, TarImages, UserItems, Vectors
from loaderlab.data.stored_size import mean_stored_bytes
from loaderlab.device.capabilities import EMULATED
from loaderlab.diagnosis.evidence import RequestedSpeed, Setup
from loaderlab.loaders.capabilities import LoaderCapabilities
from loaderlab.runs.accelerator_note import accelerator_note, limit_note
from tests.conftest import compose
from tests.simulated import loader

VECTORS = Vectors(np.zeros((4, 25), np.float32), np.zeros(4, np.int64))
ARRAYS = ImageArrays(np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4, np.int64))
OWN = UserItems([], iterable=False, input_key=None, target_key=None, num_classes=2)


def tar(*sizes: int) -> TarImages:
    zeros = np.zeros(len(sizes), np.int64)
    return TarImages(("a.tar",), zeros, zeros, np.array(sizes, np.int64), zeros)


def files(folder: Path, sizes: list[int], missing: int = 0) -> ImageFiles:
    packer = PathPacker()
    for index, size in enumerate(sizes):
        (folder / f"{index}.jpg").write_bytes(bytes(size))
        packer.add(f"{index}.jpg", ".jpg")
    for index in range(missing):
        packer.add(f"missing{index}.jpg", ".jpg")
    labels = np.zeros(len(packer), np.int64)
    return ImageFiles(PathTable(folder, packer.arrays(), packer.endings), labels)


def preset(name: str) -> AcceleratorConfig:
    return compose([f"accelerator={name}", "batch_size=256"]).accelerator


def note(accelerator: str, source: Source) -> str | None:
    spec = DataSpec("own", Split(source), None, ("a", "b"), (1,), "uint8", "memory", "")
    return accelerator_note(preset(accelerator), spec)


def test_the_size_of_stored_samples(tmp_path: Path) -> None:
    assert mean_stored_bytes(VECTORS) == 100
    assert mean_stored_bytes(ARRAYS) == 192
    assert mean_stored_bytes(tar(100, 300)) == 200
    assert mean_stored_bytes(OWN) is None
    assert mean_stored_bytes(files(tmp_path, [10, 20, 60])) == 30


def test_files_that_are_missing_are_left_out(tmp_path: Path) -> None:
    assert mean_stored_bytes(files(tmp_path, [10, 20], missing=1)) == 15
    assert mean_stored_bytes(files(tmp_path, [], missing=1)) is None


def test_only_some_of_many_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_size, "MAX_FILES", 3)
    assert mean_stored_bytes(files(tmp_path, [10, 1000, 40, 1000, 70])) == 40


@pytest.mark.parametrize("kb", [76.5, 114.66, 171.9])
def test_samples_of_about_the_published_size_fit(kb: float) -> None:
    assert note("resnet50_a100", tar(round(1000 * kb))) is None


def test_the_note_states_both_sizes_and_the_factor() -> None:
    smaller, larger = note("resnet50_a100", tar(2_000)), note("resnet50_a100", tar(230_000))
    assert smaller is not None
    assert "for stored samples of 114.7 kB, and these have 2 kB on average, 57.3 times smaller" in smaller
    assert larger is not None
    assert "have 230 kB on average, 2.0 times as large" in larger
    assert "emulated" in smaller


@pytest.mark.parametrize(
    ("accelerator", "source", "kinds"),
    [
        ("resnet50_h100", VECTORS, "for image files, and data=own has vectors"),
        ("retinanet_b200", ARRAYS, "for image files, and data=own has decoded images in memory"),
        ("feedforward", tar(100), "for vectors, and data=own has image files"),
        ("feedforward", ARRAYS, "for vectors, and data=own has decoded images in memory"),
    ],
)
def test_data_of_another_kind(accelerator: str, source: Source, kinds: str) -> None:
    text = note(accelerator, source)
    assert text is not None
    assert kinds in text
    assert re.search(r"; for stored samples of [\d.]+ kB, and these have [\d.]+ kB on average, [\d.]+ times ", text)


@pytest.mark.parametrize("source", [OWN, Vectors(np.zeros((4, 784), np.float32), np.zeros(4, np.int64))])
def test_no_note_without_a_difference(source: Source) -> None:
    assert note("feedforward", source) is None


def test_no_note_for_a_speed_of_ones_own() -> None:
    accelerator = AcceleratorConfig("custom", step_ms=20)
    for source in (VECTORS, ARRAYS, tar(100)):
        assert accelerator_note(accelerator, DataSpec("own", Split(source), None, (), (), "", "", "")) is None


def test_no_note_for_data_of_unknown_size() -> None:
    assert note("resnet50_a100", OWN) is None


def test_a_host_that_queues_too_slowly_is_reported_before_the_run() -> None:
    speed = RequestedSpeed("emulated custom", 1000.0, 150.0, 0.9, is_mlperf=False)
    setup = Setup(loader(2), EMULATED, cores=2, threads=1, batch_size=100, accelerator=speed)
    assert limit_note(setup) == (
        "with any number of workers at most 0.67 of the accelerator can be used: queuing a step takes 150 ms "
        "(accelerator.host_ms), and the step takes 100 ms. Type a larger batch_size, or a smaller accelerator.host_ms"
    )
    assert limit_note(replace(setup, accelerator=replace(speed, host_ms=90))) is None
    assert limit_note(replace(setup, accelerator=None)) is None
    assert limit_note(replace(setup, loader=LoaderCapabilities(loads_nothing=True))) is None

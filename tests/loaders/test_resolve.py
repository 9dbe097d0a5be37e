"""The automatic numbers of workers and threads: one rule for all loaders, which leaves cores to the step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loaderlab.config import DaliLoader, NativeLoader, SpdlLoader
from loaderlab.data.paths import PathTable
from loaderlab.data.spec import ImageFiles, Split, Vectors
from loaderlab.device.capabilities import CPU, DeviceCapabilities
from loaderlab.device.cpu import Cpu
from loaderlab.loaders import resolve
from loaderlab.system import machine

GPU = replace(CPU, uses_host_cores=False, takes_copies=True, decodes_images=True)
IMAGES = Split(ImageFiles(PathTable.of(Path("images"), [f"{index}.jpg" for index in range(4)]), np.zeros(4, np.int64)))
VECTORS = Split(Vectors(np.zeros((4, 2), np.float32), np.zeros(4, np.int64)))
SHARES = {  # usable cores: on a GPU, on a CPU
    1: (1, 1),
    2: (1, 1),
    4: (3, 2),
    8: (6, 4),
    16: (13, 8),
    64: (16, 16),
}


def makers(split: Split, device: DeviceCapabilities, cores: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The automatic number of each loader's workers or threads."""
    monkeypatch.setattr(machine, "available_cores", lambda: cores)
    monkeypatch.setattr(Cpu, "capabilities", device)
    target = Cpu()
    return {
        "native": resolve.native_settings(NativeLoader(), split, target).num_workers,
        "spdl": resolve.spdl_settings(SpdlLoader(), split, target).num_threads,
        "dali": resolve.dali_settings(DaliLoader(), split, target).num_threads,
    }


@pytest.mark.parametrize("cores", SHARES)
def test_all_loaders_leave_the_same_number_of_cores_to_the_step(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu, on_cpu = SHARES[cores]
    assert set(makers(IMAGES, GPU, cores, monkeypatch).values()) == {on_gpu}
    assert set(makers(IMAGES, CPU, cores, monkeypatch).values()) == {on_cpu}


def test_a_step_on_a_gpu_keeps_one_to_three_cores() -> None:
    for cores in range(2, 200):
        assert 1 <= machine.cores_for_step(cores, uses_host_cores=False) <= 3
        assert machine.cores_for_step(cores, uses_host_cores=False) <= cores // 2
        assert machine.cores_for_step(cores, uses_host_cores=True) in (cores // 2, cores // 2 + 1)


def test_data_in_memory_gets_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = makers(VECTORS, GPU, 16, monkeypatch)
    assert (shares["native"], shares["spdl"]) == (0, 1)


def test_a_given_number_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_cores", lambda: 4)
    target = Cpu()
    assert resolve.native_settings(NativeLoader(num_workers=9), IMAGES, target).num_workers == 9
    assert resolve.spdl_settings(SpdlLoader(num_threads=9), IMAGES, target).num_threads == 9
    assert resolve.dali_settings(DaliLoader(num_threads=9), IMAGES, target).num_threads == 9

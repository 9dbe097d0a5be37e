"""The parts that are no sweep: ``python -m benchmarks.gpu_acceptance.measured NAME DEVICE FOLDER`` leaves FOLDER/found.json."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from loaderlab.device.environment import describe
from loaderlab.device.resolve import resolve_device
from loaderlab.meter import filecache
from loaderlab.meter.sampler import DeviceSample, DeviceSampler, device_figures
from loaderlab.metrics import DEVICE_PCT
from loaderlab.system.files import atomic_file
from loaderlab.system.nvml import gpus, query

MIB = 1 << 20
DEVICE = DEVICE_PCT.partition("/")[0] + "/"
# what holds a clock down (nvml.h, nvmlClocksEventReason*); the other bits are settings or rest
HELD_DOWN = {
    0x04: "software power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}


def environment(device_name: str, folder: Path) -> dict[str, Any]:
    """GPU, driver, CUDA, cores, memory, versions; clocks under load and what holds them down; the storage of the data."""
    device = resolve_device(device_name)
    full = device.type == "cuda"
    return {
        "machine": describe(device),
        "load": under_load(device, side=8192 if full else 256, seconds=5.0 if full else 0.2),
        "storage": storage(folder, 1024 if full else 16),
    }


def under_load(device: torch.device, side: int, seconds: float) -> dict[str, Any]:
    """What the device gives and does while it multiplies two square matrices over and over.

    Returns:
        ``tflops`` of the products (2 side^3 operations each, in fp16 on a GPU, fp32 elsewhere); of a GPU that NVML tells
        of, the means of clocks and power, the highest temperature, ``pcie`` and ``held_down``: of each reason that held
        the clock down, the share of samples in %.
    """
    number = torch.float16 if device.type == "cuda" else torch.float32
    left, right = (torch.randn(side, side, device=device, dtype=number) for _ in range(2))
    _multiply(left, right, seconds / 5)  # clocks rise, libraries load
    if device.type != "cuda":
        return {"tflops": _multiply(left, right, seconds)}
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    with DeviceSampler(uuid) as sampler:
        began = time.perf_counter_ns()
        found: dict[str, Any] = {"tflops": _multiply(left, right, seconds)}
        window = (began, time.perf_counter_ns())
        pcie = _pcie(uuid)
        samples = sampler.stop()
    figures = device_figures(samples, [window], 0, {os.getpid()})
    found |= {name.removeprefix(DEVICE): round(value, 1) for name, value in figures.items()}
    if sampler.problem:
        found["problem"] = sampler.problem
    inside = [sample for sample in samples if window[0] <= sample.at_ns <= window[1]]
    return found | {"pcie": pcie, "held_down": held_down(inside)}


def _multiply(left: torch.Tensor, right: torch.Tensor, seconds: float) -> float:
    """10^12 operations a second."""
    out = torch.empty_like(left)
    _wait(left.device)
    count, began = 0, time.perf_counter()
    while time.perf_counter() < began + seconds:
        for _ in range(8):
            torch.matmul(left, right, out=out)
        count += 8
        _wait(left.device)
    return 2e-12 * count * float(len(left)) ** 3 / (time.perf_counter() - began)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _pcie(uuid: str) -> str | None:
    """Generation and lanes of the link as it is now: at rest many GPUs run a slower one."""
    with gpus() as handles:
        for gpu in handles:
            own = query(gpu, lambda nvml, gpu: nvml.nvmlDeviceGetUUID(gpu))
            if str(own).removeprefix("GPU-") == uuid.removeprefix("GPU-"):
                generation = query(gpu, lambda nvml, gpu: nvml.nvmlDeviceGetCurrPcieLinkGeneration(gpu))
                lanes = query(gpu, lambda nvml, gpu: nvml.nvmlDeviceGetCurrPcieLinkWidth(gpu))
                return f"generation {generation}, {lanes} lanes"
    return None


def held_down(samples: Sequence[DeviceSample]) -> dict[str, float]:
    """Of each reason the share of samples in which it held the clock down, in %; none of those that never did."""
    masks = [sample.throttle_reasons for sample in samples if sample.throttle_reasons is not None]
    seen = Counter(name for mask in masks for bit, name in HELD_DOWN.items() if mask & bit)
    return {name: round(100 * count / len(masks), 1) for name, count in seen.most_common()}


def storage(folder: Path, size_mib: int) -> dict[str, float]:
    """MiB/s of one file, written to the disk and read back from it: its pages are dropped from the cache in between."""
    path, block = folder / "storage.bin", os.urandom(MIB)
    try:
        began = time.perf_counter()
        with path.open("wb") as file:
            for _ in range(size_mib):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        wrote_s = time.perf_counter() - began
        filecache.drop([str(path)])
        with path.open("rb", buffering=0) as file:
            began = time.perf_counter()
            while file.read(MIB):
                pass
            read_s = time.perf_counter() - began
    finally:
        path.unlink(missing_ok=True)
    return {"size_mib": size_mib, "write_mib_per_s": size_mib / wrote_s, "read_mib_per_s": size_mib / read_s}


def overhead(device_name: str, _: Path) -> dict[str, Any]:
    """Of ResNet-50 steps on a GPU; of a step of a millisecond where there is none."""
    from benchmarks import overhead as overheads  # DALI's evaluator among it: the machine is told of without DALI too

    if device_name == "cuda":
        return overheads.main(
            [
                "--device",
                "cuda",
                "--model",
                "resnet50",
                "--batch",
                "64",
                "--pairs",
                "20",
                "--rounds",
                "20",
                "--seconds",
                "1",
            ]
        )
    return overheads.main(["--pairs", "40", "--steps", "10", "--rounds", "3", "--seconds", "0.05"])


def main(name: str, device: str, folder: str) -> None:
    program: Callable[[str, Path], dict[str, Any]] = {"environment": environment, "overhead": overhead}[name]
    found = program(device, Path(folder))
    with atomic_file(Path(folder) / "found.json") as partial:
        partial.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

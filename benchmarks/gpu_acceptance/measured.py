"""The parts that are not sweeps: ``python -m benchmarks.gpu_acceptance.measured NAME DEVICE FOLDER`` writes FOLDER/found.json."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_acceptance.identity import check, identity
from loaderlab.config import UserError
from loaderlab.device.environment import describe
from loaderlab.device.resolve import resolve_device
from loaderlab.meter import filecache
from loaderlab.meter.sampler import DeviceSample, DeviceSampler, device_figures
from loaderlab.metrics import DEVICE_PCT
from loaderlab.system.files import atomic_file
from loaderlab.system.nvml import gpus, query

MIB = 1 << 20
DEVICE = DEVICE_PCT.partition("/")[0] + "/"
# reasons that limit the clock (nvml.h, nvmlClocksEventReason*); the other bits are settings or idle states
CLOCK_LIMITS = {
    0x04: "software power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}


def environment(device_name: str, folder: Path) -> dict[str, Any]:
    """GPU, driver, CUDA, cores, memory and versions; clocks under load and what limits them; the storage of the data.

    Raises:
        UserError: the other parts of the folder were measured on another machine.
    """
    device = resolve_device(device_name)
    full = device.capabilities.asynchronous
    machine = describe(device)
    check(folder.parent, identity(machine))
    return {
        "machine": machine,
        "load": under_load(device.torch_device, side=8192 if full else 256, seconds=5.0 if full else 0.2),
        "storage": storage(folder, 1024 if full else 16),
    }


def under_load(device: torch.device, side: int, seconds: float) -> dict[str, Any]:
    """Speed and state of the device while it repeatedly multiplies two square matrices.

    Returns:
        ``tflops`` of the products (2 side^3 operations each, in fp16 on a GPU, otherwise in fp32). For a GPU that NVML
        supports also the means of clocks and power, the highest temperature, ``pcie``, and ``held_down``: for each reason
        that limited the clock, its share of the samples in %.
    """
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    _multiply(left, right, seconds / 5)  # warm-up: clocks rise and libraries are loaded
    if device.type != "cuda":
        return {"tflops": _multiply(left, right, seconds)}
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    with DeviceSampler(uuid) as sampler:
        began = time.perf_counter_ns()
        results: dict[str, Any] = {"tflops": _multiply(left, right, seconds)}
        window = (began, time.perf_counter_ns())
        pcie = _pcie(uuid)
        samples = sampler.stop()
    figures = device_figures(samples, [window], 0, {os.getpid()})
    results |= {name.removeprefix(DEVICE): round(value, 1) for name, value in figures.items()}
    if sampler.problem:
        results["problem"] = sampler.problem
    inside = [sample for sample in samples if window[0] <= sample.at_ns <= window[1]]
    return results | {"pcie": pcie, "held_down": clock_limits(inside)}


def _multiply(left: torch.Tensor, right: torch.Tensor, seconds: float) -> float:
    """The speed of the products, in 10^12 operations per second."""
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
    """The current generation and lanes of the link, which many idle GPUs lower."""
    with gpus() as handles:
        for gpu in handles:
            gpu_uuid = query(gpu, lambda nvml, gpu: nvml.nvmlDeviceGetUUID(gpu))
            if str(gpu_uuid).removeprefix("GPU-") == uuid.removeprefix("GPU-"):
                generation = query(gpu, lambda nvml, gpu: nvml.nvmlDeviceGetCurrPcieLinkGeneration(gpu))
                lanes = query(gpu, lambda nvml, gpu: nvml.nvmlDeviceGetCurrPcieLinkWidth(gpu))
                return f"generation {generation}, {lanes} lanes"
    return None


def clock_limits(samples: Sequence[DeviceSample]) -> dict[str, float]:
    """For each reason that limited the clock, the share of samples in which it did, in %."""
    masks = [sample.throttle_reasons for sample in samples if sample.throttle_reasons is not None]
    num_samples = Counter(name for mask in masks for bit, name in CLOCK_LIMITS.items() if mask & bit)
    return {name: round(100 * count / len(masks), 1) for name, count in num_samples.most_common()}


def storage(folder: Path, size_mib: int) -> dict[str, float]:
    """MiB/s of writing one file to disk and of reading it after its pages were dropped from the cache."""
    path, block = folder / "storage.bin", os.urandom(MIB)
    try:
        began = time.perf_counter()
        with path.open("wb") as file:
            for _ in range(size_mib):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        write_s = time.perf_counter() - began
        filecache.drop([str(path)])
        with path.open("rb", buffering=0) as file:
            began = time.perf_counter()
            while file.read(MIB):
                pass
            read_s = time.perf_counter() - began
    finally:
        path.unlink(missing_ok=True)
    return {"size_mib": size_mib, "write_mib_per_s": size_mib / write_s, "read_mib_per_s": size_mib / read_s}


# arguments of benchmarks.overhead: on a GPU, and in a trial run for steps of one millisecond
RESNET50 = "--device cuda --model resnet50 --batch 64 --steps 20 --rounds 8 --seconds 0.8"
SHORT = "--pairs 40 --steps 10 --rounds 3 --seconds 0.05"
OVERHEADS = {
    "overhead": (f"{RESNET50} --pairs 10 --measure meter by_hand", f"{SHORT} --measure meter by_hand"),
    "overhead_bf16": (
        f"{RESNET50} --pairs 15 --precision bf16 --channels-last --measure meter by_hand",
        f"{SHORT} --precision bf16 --measure meter by_hand",
    ),
    "evaluator": (f"{RESNET50} --measure evaluator", f"{SHORT} --measure evaluator"),
}


def overhead(name: str, device_name: str) -> dict[str, Any]:
    """The overhead of the meter, or the comparison with DALI's evaluator: for ResNet-50 on a GPU, otherwise for short steps."""
    from benchmarks import overhead as overhead_benchmark

    full, small = OVERHEADS[name]
    return overhead_benchmark.main((full if device_name == "cuda" else small).split())


def main(name: str, device: str, folder: str) -> int:
    """Measures one part and writes its results; returns the exit code."""
    try:
        results = environment(device, Path(folder)) if name == "environment" else overhead(name, device)
    except UserError as error:
        print(f"error: {error}")
        return 1
    with atomic_file(Path(folder) / "found.json") as partial:
        partial.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

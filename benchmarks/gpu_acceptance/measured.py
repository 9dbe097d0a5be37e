"""The parts that are no sweep: ``python -m benchmarks.gpu_acceptance.measured NAME DEVICE FOLDER`` leaves FOLDER/found.json."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import overhead as overheads
from loaderlab.environment import describe, resolve_device
from loaderlab.meter import filecache

MIB = 1 << 20


def environment(device: str, folder: Path) -> dict[str, Any]:
    """GPU, driver, CUDA, cores, memory, versions; clocks and what slows them down; the storage that the data lies on."""
    found = describe(resolve_device(device))
    return {"machine": found, "gpu": _gpu(), "storage": storage(folder, 1024 if device == "cuda" else 16)}


def _gpu() -> dict[str, Any]:
    """Clocks, power and the reasons for which clocks are held down, of the first GPU; empty where there is none."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {}
    asked: dict[str, Callable[[Any], Any]] = {
        "sm_clock_mhz": lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM),
        "sm_clock_max_mhz": lambda gpu: pynvml.nvmlDeviceGetMaxClockInfo(gpu, pynvml.NVML_CLOCK_SM),
        "memory_clock_mhz": lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_MEM),
        "power_limit_w": lambda gpu: pynvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1e3,
        "temperature_c": lambda gpu: pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
        "pcie_generation": lambda gpu: pynvml.nvmlDeviceGetCurrPcieLinkGeneration(gpu),
        "pcie_width": lambda gpu: pynvml.nvmlDeviceGetCurrPcieLinkWidth(gpu),
        "throttle_reasons": lambda gpu: hex(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu)),
    }
    found = {}
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    for name, ask in asked.items():
        try:
            found[name] = ask(gpu)
        except pynvml.NVMLError:  # not every GPU tells all of it
            continue
    pynvml.nvmlShutdown()
    return found


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


def overhead(device: str, _: Path) -> dict[str, Any]:
    """Of ResNet-50 steps on a GPU; of a step of a millisecond where there is none."""
    if device == "cuda":
        return overheads.main(["device=cuda", "model=resnet50", "batch=64", "rounds=20", "seconds=1"])
    return overheads.main(["pairs=40", "steps=10", "rounds=3", "seconds=0.05"])


def main(name: str, device: str, folder: str) -> None:
    program: Callable[[str, Path], dict[str, Any]] = {"environment": environment, "overhead": overhead}[name]
    found = program(device, Path(folder))
    (Path(folder) / "found.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])

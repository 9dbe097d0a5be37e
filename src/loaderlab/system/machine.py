"""The number of cores and the memory that this process may use (affinity, cgroup), and the load of the machine.

Does not import torch, because the process that launches a sweep's jobs uses it too.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from loaderlab import metrics
from loaderlab.system import slurm_task
from loaderlab.system.nvml import gpus, query

LOOK_S = 0.5  # time to measure the load of the processor
MAX_AUTO_WORKERS = 16  # more workers take more memory, and usually do not raise throughput
MAX_STEP_CORES = 3  # threads of a training process that need a core: launching, autograd, pinning
BUSY_PCT = 25.0  # if other programs use more than this, results will be affected
HOT_C = 85.0


def core_limits() -> tuple[int, float | None]:
    """Cores in the affinity mask, and cores by the cgroup's CPU quota (None without a quota)."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return affinity, _cgroup_quota()


def memory_limit(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The lowest memory limit on this process's cgroup path (version 2, otherwise 1), in bytes; None without a limit."""
    files = [*(folder / "memory.max" for folder in _cgroup_folders(root)), root / "memory/memory.limit_in_bytes"]
    limits = []
    for file in files:
        with contextlib.suppress(OSError, ValueError):  # no such file, or the content is "max"
            limits.append(int(file.read_text(encoding="utf-8")))
    limit = min(limits, default=psutil.virtual_memory().total)
    return limit if limit < psutil.virtual_memory().total else None


def rank_cores() -> int:
    """The number of cores for this rank: those that this process may use, divided by the ranks of this node, at least 1."""
    text = os.environ.get("LOCAL_WORLD_SIZE", "1")  # the agent of the ranks sets it
    return max(1, available_cores() // (int(text) if text.isdigit() and int(text) else 1))


def worker_share(*, uses_host_cores: bool) -> int:
    """The automatic number of a loader's workers or threads: the cores of this rank without `cores_for_step`, 1 to
    `MAX_AUTO_WORKERS`."""
    cores = rank_cores()
    return max(1, min(MAX_AUTO_WORKERS, cores - cores_for_step(cores, uses_host_cores=uses_host_cores)))


def cores_for_step(cores: int, *, uses_host_cores: bool) -> int:
    """The number of cores that a loader leaves to the training process.

    If the step computes on the CPU, half of them, rounded up. Otherwise the step still needs the host: one thread launches its
    work, autograd has a thread of its own, and another pins memory. They get a quarter of the cores, 1 to `MAX_STEP_CORES`.

    >>> [cores_for_step(cores, uses_host_cores=False) for cores in (1, 2, 4, 8, 16, 64)]
    [1, 1, 1, 2, 3, 3]
    """
    return cores - cores // 2 if uses_host_cores else min(MAX_STEP_CORES, max(1, cores // 4))


def available_memory(root: Path = Path("/sys/fs/cgroup")) -> int:
    """The memory that this process may still use, in bytes: the lowest of the machine's available memory and the rest of each
    cgroup limit (version 2, otherwise 1). The file cache of a cgroup counts as free."""
    available = [psutil.virtual_memory().available]
    names = [(folder, "memory.max", "memory.current", "") for folder in _cgroup_folders(root)]
    names += [(root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_")]
    for folder, limit, usage, prefix in names:
        with contextlib.suppress(OSError, ValueError):  # no such file, or the content is "max"
            left = int((folder / limit).read_text(encoding="utf-8")) - int((folder / usage).read_text(encoding="utf-8"))
            available.append(max(0, left + _file_cache(folder / "memory.stat", prefix)))
    return min(available)


def _file_cache(stat: Path, prefix: str) -> int:
    """The size of a cgroup's file cache in bytes. The kernel frees it when memory is needed."""
    entries = dict(line.split() for line in stat.read_text(encoding="utf-8").splitlines())
    return sum(int(entries.get(f"{prefix}{name}", 0)) for name in ("active_file", "inactive_file"))


def available_cores() -> int:
    """The number of cores that this process may use: those of the affinity mask, limited by the cgroup's CPU quota and by what
    Slurm gave to this task, at least 1."""
    affinity, quota = core_limits()
    limits = [affinity if quota is None else math.ceil(quota), slurm_task.allocated_cores() or affinity]
    return max(1, min(affinity, *limits))


def _cgroup_folders(root: Path) -> Iterator[Path]:
    """The folders of this process's cgroup (version 2), from its own folder up to the root."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        relative = next(line for line in lines if line.startswith("0::")).removeprefix("0::").strip("/")
    except (OSError, StopIteration):
        relative = ""
    folder = root / relative
    yield folder
    while folder not in (root, folder.parent):
        folder = folder.parent
        yield folder


def _cgroup_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """The lowest CPU quota on this process's cgroup path (version 2, otherwise 1), in cores; None without a quota."""
    quotas = []
    for folder in _cgroup_folders(root):
        with contextlib.suppress(OSError, ValueError):
            limit, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
            if limit != "max":
                quotas.append(int(limit) / int(period))
    try:
        limit_us = int((root / "cpu/cpu.cfs_quota_us").read_text(encoding="utf-8"))
        if limit_us > 0:
            quotas.append(limit_us / int((root / "cpu/cpu.cfs_period_us").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        pass
    return min(quotas, default=None)


def worker_counts(cores: int) -> list[int]:
    """The worker counts of ``study=workers``: 0, powers of two up to the number of cores, the number of cores, and the next power of two.

    >>> worker_counts(2), worker_counts(6)
    ([0, 1, 2, 4], [0, 1, 2, 4, 6, 8])
    """
    doubling = [2**power for power in range(12)]
    beyond = next(count for count in doubling if count > cores)
    return sorted({0, cores, beyond, *(count for count in doubling if count <= cores)})


def cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor has bf16 arithmetic. Without it, torch emulates bf16, several times slower than fp32."""
    try:
        text = cpuinfo.read_text(encoding="utf-8")
    except OSError:
        return False
    flags = {flag for line in text.splitlines() if line.startswith(("flags", "Features")) for flag in line.split()}
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def state() -> dict[str, float]:
    """The load of the machine by other programs, as metrics. Call it between two jobs, when no run of ours is active. It takes
    half a second.

    Returns:
        ``machine/busy_pct`` of the processor during the next half second, and ``machine/load_1min``. If they can be read:
        ``machine/temperature_c`` (the hottest sensor of the processor), ``machine/clock_mhz``, and for the GPUs the highest
        ``machine/gpu_temperature_c``, the lowest ``machine/gpu_clock_mhz``, the highest ``machine/gpu_busy_pct``, and
        ``machine/gpu_processes``, the number of programs that use them.
    """
    state = {metrics.MACHINE_BUSY_PCT: psutil.cpu_percent(LOOK_S), metrics.MACHINE_LOAD: os.getloadavg()[0]}
    sensors: dict[str, Any] = getattr(psutil, "sensors_temperatures", dict)()
    temperatures = [
        entry.current for name in ("coretemp", "k10temp", "zenpower", "cpu_thermal") for entry in sensors.get(name, [])
    ]
    if temperatures:
        state[metrics.MACHINE_TEMPERATURE_C] = max(temperatures)
    with contextlib.suppress(OSError, NotImplementedError, RuntimeError):
        if (clock := psutil.cpu_freq()) is not None and clock.current:
            state[metrics.MACHINE_CLOCK_MHZ] = clock.current
    return state | _gpu_state()


def _gpu_state() -> dict[str, float]:
    queries: dict[str, tuple[Any, Any]] = {
        metrics.MACHINE_GPU_TEMPERATURE_C: (
            max,
            lambda nvml, gpu: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
        ),
        metrics.MACHINE_GPU_CLOCK_MHZ: (min, lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM)),
        metrics.MACHINE_GPU_BUSY_PCT: (max, lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu),
        metrics.MACHINE_GPU_PROCESSES: (sum, lambda nvml, gpu: len(nvml.nvmlDeviceGetComputeRunningProcesses(gpu))),
    }
    state = {}
    with gpus() as handles:
        for name, (combine, ask) in queries.items():
            values = [value for gpu in handles if (value := query(gpu, ask)) is not None]
            if values:
                state[name] = float(combine(values))
    return state


def warnings(state: dict[str, float]) -> Iterator[str]:
    """One sentence for each value of `state` that would affect a measurement."""
    if (busy := state[metrics.MACHINE_BUSY_PCT]) > BUSY_PCT:
        yield f"other programs use {busy:.0f} % of the processor: results will be affected"
    if count := state.get(metrics.MACHINE_GPU_PROCESSES):
        yield f"{count:.0f} other programs use the GPUs: results will be affected"
    hottest = max(state.get(metrics.MACHINE_TEMPERATURE_C, 0.0), state.get(metrics.MACHINE_GPU_TEMPERATURE_C, 0.0))
    if hottest >= HOT_C:
        yield f"the temperature is {hottest:.0f} °C: heat may slow down what is measured"

"""How many cores and how much memory this process may use (affinity, cgroup), and what else runs on this machine. Free of torch: the
process that launches a sweep's jobs asks as well."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from loaderlab import metrics
from loaderlab.system.nvml import gpus, query

LOOK_S = 0.5  # in which the processor is watched
MAX_AUTO_WORKERS = 16  # beyond this, memory grows and, as a rule, throughput does not
BUSY_PCT = 25.0  # of the processor taken by others: a measurement beside it tells of them too
HOT_C = 85.0


def core_limits() -> tuple[int, float | None]:
    """Cores of the affinity mask, and of the cgroup's CPU quota; None without one."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return affinity, _cgroup_quota()


def memory_limit(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that the tightest memory limit on this process's cgroup path allows (version 2, else 1); None without one."""
    files = [*(folder / "memory.max" for folder in _cgroup_folders(root)), root / "memory/memory.limit_in_bytes"]
    limits = []
    for file in files:
        with contextlib.suppress(OSError, ValueError):  # no such file, or the word max
            limits.append(int(file.read_text(encoding="utf-8")))
    limit = min(limits, default=psutil.virtual_memory().total)
    return limit if limit < psutil.virtual_memory().total else None


def worker_share(*, uses_host_cores: bool) -> int:
    """Loader workers by the cores that this process may use: one core is left to the training process, and half of them if the
    step computes on the cores too."""
    cores = available_cores()
    return max(1, min(MAX_AUTO_WORKERS, cores // 2 if uses_host_cores else cores - 1))


def available_memory(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process may still use: what is available on the machine and what is left of the limit of each of its
    cgroups (version 2, else 1), whose file caches count as free."""
    available = [psutil.virtual_memory().available]
    names = [(folder, "memory.max", "memory.current", "") for folder in _cgroup_folders(root)]
    names += [(root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_")]
    for folder, limit, usage, prefix in names:
        with contextlib.suppress(OSError, ValueError):  # no such file, or the word max
            left = int((folder / limit).read_text(encoding="utf-8")) - int((folder / usage).read_text(encoding="utf-8"))
            available.append(max(0, left + _file_cache(folder / "memory.stat", prefix)))
    return min(available)


def _file_cache(stat: Path, prefix: str) -> int:
    """Bytes of a cgroup's file cache, which the kernel gives up when memory is needed."""
    entries = dict(line.split() for line in stat.read_text(encoding="utf-8").splitlines())
    return sum(int(entries.get(f"{prefix}{name}", 0)) for name in ("active_file", "inactive_file"))


def available_cores() -> int:
    """Cores that this process may use: the affinity mask, bounded by the cgroup's CPU quota; at least 1."""
    affinity, quota = core_limits()
    return max(1, affinity if quota is None else min(affinity, math.ceil(quota)))


def _cgroup_folders(root: Path) -> Iterator[Path]:
    """The folders of this process's cgroup (version 2), from its own up to the root."""
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
    """Cores of the tightest CPU quota on this process's cgroup path (version 2, else 1); None without one."""
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
    """The worker counts of ``study=workers``: 0, then doubling, up to the cores and once beyond them.

    >>> worker_counts(2), worker_counts(6)
    ([0, 1, 2, 4], [0, 1, 2, 4, 6, 8])
    """
    doubling = [2**power for power in range(12)]
    beyond = next(count for count in doubling if count > cores)
    return sorted({0, cores, beyond, *(count for count in doubling if count <= cores)})


def cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor computes in bf16 itself; without, torch emulates it, several times slower than fp32."""
    try:
        text = cpuinfo.read_text(encoding="utf-8")
    except OSError:
        return False
    flags = {flag for line in text.splitlines() if line.startswith(("flags", "Features")) for flag in line.split()}
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def has_bf16() -> bool:
    """Whether a GPU of this machine (from Ampere on), or else its processor, computes in bf16."""
    capability = None
    with gpus() as handles:
        if handles:
            capability = query(handles[0], lambda nvml, gpu: nvml.nvmlDeviceGetCudaComputeCapability(gpu))
    return cpu_has_bf16() if capability is None else bool(capability[0] >= 8)


def state() -> dict[str, float]:
    """What else goes on, as metrics: to be asked between two jobs, when nothing of ours runs. Takes half a second.

    Returns:
        ``machine/busy_pct``: of the processor, in the next half second; ``machine/load_1min``; where they can be read
        ``machine/temperature_c`` (the hottest sensor of the processor), ``machine/clock_mhz``, and of the GPUs the
        hottest ``machine/gpu_temperature_c``, the lowest ``machine/gpu_clock_mhz``, ``machine/gpu_busy_pct`` and
        ``machine/gpu_processes``: programs that compute on them.
    """
    found = {metrics.MACHINE_BUSY_PCT: psutil.cpu_percent(LOOK_S), metrics.MACHINE_LOAD: os.getloadavg()[0]}
    temperatures: dict[str, Any] = getattr(psutil, "sensors_temperatures", dict)()
    hottest = [
        entry.current
        for name in ("coretemp", "k10temp", "zenpower", "cpu_thermal")
        for entry in temperatures.get(name, [])
    ]
    if hottest:
        found[metrics.MACHINE_TEMPERATURE_C] = max(hottest)
    with contextlib.suppress(OSError, NotImplementedError, RuntimeError):
        if (clock := psutil.cpu_freq()) is not None and clock.current:
            found[metrics.MACHINE_CLOCK_MHZ] = clock.current
    return found | _gpu_state()


def _gpu_state() -> dict[str, float]:
    asked: dict[str, tuple[Any, Any]] = {
        metrics.MACHINE_GPU_TEMPERATURE_C: (
            max,
            lambda nvml, gpu: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
        ),
        metrics.MACHINE_GPU_CLOCK_MHZ: (min, lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM)),
        metrics.MACHINE_GPU_BUSY_PCT: (max, lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu),
        metrics.MACHINE_GPU_PROCESSES: (sum, lambda nvml, gpu: len(nvml.nvmlDeviceGetComputeRunningProcesses(gpu))),
    }
    found = {}
    with gpus() as handles:
        for name, (join, question) in asked.items():
            values = [value for gpu in handles if (value := query(gpu, question)) is not None]
            if values:
                found[name] = float(join(values))
    return found


def warnings(found: dict[str, float]) -> Iterator[str]:
    """What of a `state` would spoil a measurement, in words."""
    if (busy := found[metrics.MACHINE_BUSY_PCT]) > BUSY_PCT:
        yield f"other programs keep {busy:.0f} % of the processor busy: figures measured now tell of them too"
    if count := found.get(metrics.MACHINE_GPU_PROCESSES):
        yield f"{count:.0f} other programs compute on the GPUs: figures measured now tell of them too"
    hottest = max(found.get(metrics.MACHINE_TEMPERATURE_C, 0.0), found.get(metrics.MACHINE_GPU_TEMPERATURE_C, 0.0))
    if hottest >= HOT_C:
        yield f"{hottest:.0f} °C: what is measured now may be slowed down by the heat"

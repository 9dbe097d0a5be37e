"""Reads one GPU through NVML over and over, in a process of its own: a query takes the driver's locks and can last
milliseconds, which must not fall into the training process's steps.

`loaderlab.meter.sampler` starts this file as a script and reads what it wrote. Standard library and pynvml only, so
that it starts at once and stays small; so it opens NVML itself instead of by `loaderlab.system.nvml`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

import pynvml

ABSENT = "-"
QUERIES: dict[str, Callable[[object], object]] = {  # the counter first: the closer to the time of its line, the better
    "energy_mj": pynvml.nvmlDeviceGetTotalEnergyConsumption,
    "power_mw": pynvml.nvmlDeviceGetPowerUsage,
    "utilization_pct": lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
    "memory_utilization_pct": lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).memory,
    "sm_clock_mhz": lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM),
    "sm_clock_max_mhz": lambda gpu: pynvml.nvmlDeviceGetMaxClockInfo(gpu, pynvml.NVML_CLOCK_SM),
    "memory_clock_mhz": lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_MEM),
    "temperature_c": lambda gpu: pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
    # not the newer ...EventReasons: the same mask, and drivers before 535 have this name only
    "throttle_reasons": pynvml.nvmlDeviceGetCurrentClocksThrottleReasons,
    "memory_used_bytes": lambda gpu: pynvml.nvmlDeviceGetMemoryInfo(gpu).used,
    "pids": lambda gpu: " ".join(str(p.pid) for p in pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)),
}


def main(uuid: str, interval_s: float, parent: int) -> None:
    """Writes a line of column names and then a line each ``interval_s`` to standard output, comma-separated, until
    SIGTERM comes or the parent is gone; one more line at the end, so that the last window has its edge.

    Args:
        uuid: of the GPU, with NVML's prefix ``GPU-`` or without it, as torch gives it.
        parent: pid of the process that started this one.

    Raises:
        pynvml.NVMLError: no driver, or no such GPU; the traceback's last line is the reason that the parent reads.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches the whole group; the parent ends this process
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # waited for below, so that no line is cut short
    pynvml.nvmlInit()
    gpu = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")
    if _is_partitioned(gpu):
        sys.exit("the GPU is partitioned (MIG): its power and utilisation are not this process's alone")
    _write(",".join(["at_ns", *QUERIES]))
    ended = False
    while not ended:
        _write(_line(gpu))
        ended = signal.sigtimedwait({signal.SIGTERM}, interval_s) is not None or os.getppid() != parent
    _write(_line(gpu))


def _is_partitioned(gpu: object) -> bool:
    try:
        return bool(pynvml.nvmlDeviceGetMigMode(gpu)[0] == pynvml.NVML_DEVICE_MIG_ENABLE)
    except pynvml.NVMLError:  # a GPU that cannot be partitioned
        return False


def _line(gpu: object) -> str:
    """One sample; a query that this GPU or driver does not answer leaves its own column absent."""
    values = [str(time.perf_counter_ns())]  # CLOCK_MONOTONIC on Linux: the same clock in every process
    for query in QUERIES.values():
        try:
            values.append(str(query(gpu)))
        except pynvml.NVMLError:
            values.append(ABSENT)
    return ",".join(values)


def _write(line: str) -> None:
    os.write(1, f"{line}\n".encode())  # whole lines: nothing is lost in a buffer when this process is killed


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))

"""Samples one GPU through NVML in a separate process.

A query takes the driver's locks and can last milliseconds, which must not delay the training process's steps.
`loaderlab.meter.sampler` starts this file as a script and reads its output. It imports only the standard library and
pynvml, so that it starts fast and stays small. For the same reason it does not use `loaderlab.system.nvml`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

import pynvml

ABSENT = "-"
QUERIES: dict[str, Callable[[object], object]] = {  # the energy counter first: it should match the line's timestamp
    "energy_mj": pynvml.nvmlDeviceGetTotalEnergyConsumption,
    "power_mw": pynvml.nvmlDeviceGetPowerUsage,
    "utilization_pct": lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
    "memory_utilization_pct": lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).memory,
    "sm_clock_mhz": lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM),
    "sm_clock_max_mhz": lambda gpu: pynvml.nvmlDeviceGetMaxClockInfo(gpu, pynvml.NVML_CLOCK_SM),
    "memory_clock_mhz": lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_MEM),
    "temperature_c": lambda gpu: pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
    # not the newer ...EventReasons, which is the same mask: drivers before 535 have only this name
    "throttle_reasons": pynvml.nvmlDeviceGetCurrentClocksThrottleReasons,
    "memory_used_bytes": lambda gpu: pynvml.nvmlDeviceGetMemoryInfo(gpu).used,
    "pids": lambda gpu: " ".join(str(p.pid) for p in pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)),
}


def main(uuid: str, interval_s: float, parent: int) -> None:
    """Writes comma-separated lines to standard output: the column names, then one sample per ``interval_s``.

    It stops after SIGTERM, or when the parent has ended. A last sample then covers the end of the last window.

    Args:
        uuid: of the GPU, with or without NVML's prefix; torch gives it without. On a part of a GPU (MIG), torch gives the
            part's own uuid with some drivers.
        parent: pid of the process that started this one.

    Raises:
        pynvml.NVMLError: no driver, or no such GPU. The parent reads the reason from the traceback's last line.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends this process
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # sigtimedwait receives it, so that no line is cut
    pynvml.nvmlInit()
    gpu = _whole_gpu(uuid)
    if gpu is None:
        sys.exit("the GPU is partitioned (MIG): its power and utilization include other processes")
    _write(",".join(["at_ns", *QUERIES]))
    ended = False
    while not ended:
        _write(_line(gpu))
        ended = signal.sigtimedwait({signal.SIGTERM}, interval_s) is not None or os.getppid() != parent
    _write(_line(gpu))


def _whole_gpu(uuid: str) -> object | None:
    """NVML's handle of the GPU; None if the uuid names a partitioned GPU or a part of one."""
    try:
        gpu = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")
    except pynvml.NVMLError:
        if uuid.startswith("MIG-") or _names_part(uuid):
            return None
        raise
    return None if uuid.startswith("MIG-") or _is_partitioned(gpu) else gpu


def _names_part(uuid: str) -> bool:
    """Whether this uuid without a prefix is that of a part of a GPU."""
    try:
        pynvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}")
    except pynvml.NVMLError:
        return False
    return True


def _is_partitioned(gpu: object) -> bool:
    try:
        return bool(pynvml.nvmlDeviceGetMigMode(gpu)[0] == pynvml.NVML_DEVICE_MIG_ENABLE)
    except pynvml.NVMLError:  # a GPU that cannot be partitioned
        return False


def _line(gpu: object) -> str:
    """One sample; a query that this GPU or driver does not support is marked absent."""
    values = [str(time.perf_counter_ns())]  # CLOCK_MONOTONIC on Linux: the same clock in every process
    for query in QUERIES.values():
        try:
            values.append(str(query(gpu)))
        except pynvml.NVMLError:
            values.append(ABSENT)
    return ",".join(values)


def _write(line: str) -> None:
    os.write(1, f"{line}\n".encode())  # unbuffered: no line is lost when this process is killed


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))

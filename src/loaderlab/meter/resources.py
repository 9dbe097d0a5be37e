"""What a process and its workers use: memory by proportional share, processor time, bytes read from storage."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import psutil


def _tree() -> list[psutil.Process]:
    own = psutil.Process()
    return [own, *own.children(recursive=True)]


def proportional_memory_mib() -> float | None:
    """Proportional set size of this process and all below it, MiB: shared pages are counted once, divided among
    those that share them. None where the kernel does not tell. Costs some 10 ms a process: not for a hot path."""
    total_kib = 0
    for process in _tree():
        try:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        except (FileNotFoundError, ProcessLookupError):
            if not Path("/proc/self/smaps_rollup").exists():
                return None
            continue  # it ended meanwhile
        except OSError:
            return None
        total_kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total_kib / 1024


def cpu_seconds() -> float:
    """Processor seconds used so far by this process and all below it, those that ended included."""
    seconds = 0.0
    for process in _tree():
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        # the time of ended children is counted by whoever waited for them
        seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


def worker_cpu_seconds(leave_out: Collection[int] = ()) -> float:
    """Processor seconds used so far by all processes below this one, those that ended included, this one not. Take
    the difference of two readings: helpers that ended long ago are in both.

    Args:
        leave_out: pids of children that are no workers (the device's sampler), while they live.
    """
    own, *below = _tree()
    ended = own.cpu_times()  # after the list and before the rest: a worker that ends meanwhile is not counted twice
    seconds = ended.children_user + ended.children_system
    for process in below:
        if process.pid in leave_out:
            continue
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


def read_bytes() -> int | None:
    """Bytes that this process and all below it fetched from storage so far: what the file cache held is not counted,
    what was read ahead is. None where the kernel does not tell.

    Ended children are included: Linux adds their count to that of the process that waited for them (seen on 6.18). A
    tmpfs counts nothing; whether a network file system does is its own affair.
    """
    total = 0
    for process in _tree():
        try:
            lines = Path(f"/proc/{process.pid}/io").read_text(encoding="utf-8").splitlines()
        except (FileNotFoundError, ProcessLookupError):
            if not Path("/proc/self/io").exists():
                return None
            continue  # it ended meanwhile
        except OSError:
            return None
        total += sum(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))
    return total


def counters() -> dict[str, float]:
    """What has been used so far, workers included: ``cpu_s``, and ``read_bytes`` if the kernel tells."""
    read = read_bytes()
    return {"cpu_s": cpu_seconds()} | ({} if read is None else {"read_bytes": float(read)})


def own_pids() -> frozenset[int]:
    """Of this process and all below it."""
    return frozenset(process.pid for process in _tree())

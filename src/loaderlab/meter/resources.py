"""What a training process and its loader's workers use: proportional memory, CPU time, bytes read from storage.

Counted are the training process and its descendants: the processes that load its data may be of any kind, also in a loop with
an unknown loader (worker processes, their fork server, processes that workers start). Only direct children that are known to
do something else are left out, with all their descendants: torch's compile workers and the device sampler.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Collection
from pathlib import Path

import psutil

from loaderlab.system.forked import template_pid

NOT_LOADING = (
    "/torch/_inductor/compile_worker/__main__.py",
    "/loaderlab/meter/nvml.py",
)  # the scripts of these children


def _tree() -> list[psutil.Process]:
    """This process and its descendants, without those that are known to load nothing."""
    own = psutil.Process()
    counted, left_out = [own], set()
    for process in own.children(recursive=True):  # a parent comes before its children
        try:
            parent = process.ppid()
            if parent in left_out or (parent == own.pid and _loads_nothing(process)):
                left_out.add(process.pid)
            else:
                counted.append(process)
        except psutil.NoSuchProcess:
            continue
    return counted


def _loads_nothing(child: psutil.Process) -> bool:
    """Whether a child runs one of the scripts `NOT_LOADING`."""
    try:
        return any(argument.endswith(NOT_LOADING) for argument in child.cmdline()[1:4])
    except (psutil.AccessDenied, psutil.ZombieProcess):  # started with sudo; or ended, but not waited for yet
        return False


def proportional_memory_mib() -> float | None:
    """Proportional set size of the counted processes together, MiB; None if the kernel does not report it. See `memory_by_process`."""
    sizes = memory_by_process()
    return None if sizes is None else sum(sizes.values())


def memory_by_process() -> dict[int, float] | None:
    """Proportional set size of each counted process, MiB, by pid; None if the kernel does not report it.

    A shared page is divided among the processes that share it. The share of a template counts too, without the changed pages that only
    the template uses: a job that was forked from it then has about the same value as one that imported everything itself. A call
    takes about 10 ms per process: keep it out of hot paths.
    """
    memory: dict[int, float] = {}
    template = template_pid()
    for pid in [*(process.pid for process in _tree()), *([] if template is None else [template])]:
        try:
            sizes = _memory_kib(pid)
        except (FileNotFoundError, ProcessLookupError):
            if not Path("/proc/self/smaps_rollup").exists():
                return None
            continue  # the process has ended
        except OSError:
            return None
        memory[pid] = (sizes["Pss"] - (sizes["Private_Dirty"] if pid == template else 0)) / 1024
    return memory


def child_pids() -> frozenset[int]:
    """Pids of the processes that multiprocessing has started from this one, such as the workers of a DataLoader."""
    return frozenset(process.pid for process in multiprocessing.active_children() if process.pid is not None)


def mean_memory_mib(pids: Collection[int]) -> float | None:
    """Mean proportional set size of these processes, MiB; None if there are none, or if the kernel does not report it."""
    sizes = []
    for pid in pids:
        try:
            sizes.append(_memory_kib(pid)["Pss"] / 1024)
        except OSError:  # it has ended, or belongs to another user
            continue
    return sum(sizes) / len(sizes) if sizes else None


def _memory_kib(pid: int) -> dict[str, int]:
    """The sizes in KiB that the kernel reports about a process, by name."""
    _, *lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return {name.rstrip(":"): int(size) for name, size, *_ in map(str.split, lines)}


def cpu_seconds() -> float:
    """CPU seconds used so far by the counted processes, including children that ended."""
    seconds = 0.0
    for process in _tree():
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        # the kernel adds an ended child's time to the process that waited for it
        seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


def read_bytes() -> int | None:
    """Bytes that the counted processes read from storage so far; None if the kernel does not report it.

    Reads served by the page cache are not counted; read-ahead is. Ended children are included: Linux adds their count
    to the process that waited for them (checked on 6.18). A tmpfs counts nothing; a network file system may not either.
    """
    total = 0
    for process in _tree():
        try:
            lines = Path(f"/proc/{process.pid}/io").read_text(encoding="utf-8").splitlines()
        except (FileNotFoundError, ProcessLookupError):
            if not Path("/proc/self/io").exists():
                return None
            continue  # the process has ended
        except OSError:
            return None
        total += sum(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))
    return total


def counters() -> dict[str, float]:
    """Totals so far, workers included: ``cpu_s``, and ``read_bytes`` if the kernel reports it."""
    read = read_bytes()
    return {"cpu_s": cpu_seconds()} | ({} if read is None else {"read_bytes": float(read)})


def own_pids() -> frozenset[int]:
    """Pids of this process and all its descendants, also of those that are not counted."""
    own = psutil.Process()
    return frozenset({own.pid, *(process.pid for process in own.children(recursive=True))})

"""What this machine has for a loader: cores, memory, /dev/shm, open files."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

from loaderlab.system.machine import available_memory, memory_limit, rank_cores
from loaderlab.tuning.limits import MIB, SHARE, Machine
from loaderlab.tuning.trial import Facts

SHM = Path("/dev/shm")


def this_machine(facts: Facts, *, max_makers: int | None, memory_mib: float | None) -> Machine:
    """The limits of this machine for the loader of one rank.

    Args:
        max_makers, memory_mib: the settings ``tune.max_makers`` and ``tune.memory_mib``; None: no limit by the user.
    """
    free = all_free = int(SHARE * available_memory())
    where = "" if memory_limit() is None else " in this cgroup or on this machine"
    name = f"are {SHARE:.0%} of what is free{where}"
    if memory_mib is not None and memory_mib * MIB < free:
        free, name = int(memory_mib * MIB), "are the limit that was set"
    shm = shutil.disk_usage(SHM).free if facts.in_dev_shm and SHM.is_dir() else None
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Machine(
        cores=rank_cores(),
        memory_bytes=free,
        memory_name=name,
        free_bytes=None if facts.in_process else all_free,
        shm_bytes=shm,
        open_files=2**31 if files == resource.RLIM_INFINITY else files,
        max_makers=max_makers,
        device_bytes=None if facts.uses_host_cores or facts.emulated else facts.device_bytes,
    )

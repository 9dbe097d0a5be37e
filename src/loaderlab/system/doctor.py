"""Checks of a machine and its settings for conditions that make runs fail or slow. Runs report them in the same words.

Each function takes the values that were read, so that tests can pass any values. `loaderlab.runs.doctor` reads the machine.
"""

from __future__ import annotations

import errno
import os
import tempfile
import time
from dataclasses import dataclass

from loaderlab.system.causes import safe_text

MIB, GIB = 2**20, 2**30
LEAST_SHM = 64 * MIB  # bytes: 8 workers x 2 batches of 64 images of 224 x 224 need 150 MiB
LEAST_DISK = GIB
LEAST_MEMORY = 2 * GIB  # a run with two workers takes 1 GiB
RUN_FILES = 12  # open files of a run without workers. Measured: 8
SPDL_FILES = 24  # measured: 14; with a limit of 16 a run did not end in 80 s
WORKER_FILES = 5  # for each worker of training and validation. Measured: 20, 29, 48, 82 with 2, 4, 8, 16 workers
EPOCH_2024 = 1_704_067_200  # seconds since 1970

SHM = "/dev/shm has no space left, and workers pass their batches through it. Type: loader.num_workers=0, or docker run --shm-size=8g"
FILES = "too many files are open. Type in the shell: ulimit -n 4096"
DISK = "no space is left on the disk. Free some, or set TMPDIR to a folder on another disk"
MEMORY = "not enough memory. Type a smaller batch_size, or loader.num_workers=0"
CWD = "the working folder was removed. Type in the shell: cd to a folder that exists"
TEMPORARY = "there is no writable folder for temporary files. Set TMPDIR to a writable folder"


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        state: ok; warning: a run may be slow or fail; fails: a run would fail.
        text: the values that were read, and what to do if the state is not ok.
    """

    name: str
    state: str
    text: str

    def __str__(self) -> str:
        return f"{self.state:<8} {self.name:<18} {self.text}"


def _check(name: str, text: str, *, fails: str = "", warns: str = "") -> Check:
    state = "fails" if fails else "warning" if warns else "ok"
    return Check(name, state, ": ".join(part for part in (text, fails or warns) if part))


def cores(affinity: int, quota: float | None) -> Check:
    """Checks the cores of the affinity mask and the cgroup's quota."""
    text = f"{affinity} by affinity, {'no quota' if quota is None else f'{quota:g} by the cgroup quota'}"
    short = (
        "less than one core: steps will stall. Raise the container's CPU limit"
        if quota is not None and quota < 1
        else ""
    )
    return _check("cores", text, warns=short)


def shm(total: int | None, free: int, *, writable: bool) -> Check:
    """Checks /dev/shm, with sizes in bytes. ``total`` None: it does not exist."""
    if total is None or not writable:
        why = "workers pass their batches through it. Type: loader.num_workers=0"
        return _check("/dev/shm", "missing" if total is None else "cannot be written", fails=why)
    text = f"{free / MIB:,.0f} of {total / MIB:,.0f} MiB free"
    return _check("/dev/shm", text, fails=SHM if free < MIB else "", warns=f"a full {SHM}" if free < LEAST_SHM else "")


def descriptors(limit: int, num_workers: int, least: int = RUN_FILES) -> Check:
    """Checks the soft limit of open files. A run needs ``least`` files, and some more for each worker process."""
    needed = least + WORKER_FILES * num_workers
    text = f"{limit:,} at most, about {needed:,} needed by this run"
    few = "less than twice as many as needed. Type in the shell: ulimit -n 4096"
    return _check("open files", text, fails=FILES if limit < needed else "", warns=few if limit < 2 * needed else "")


def memory(available: int, limit: int | None) -> Check:
    """Checks the available bytes, and the cgroup's limit in bytes."""
    text = f"{available / GIB:.1f} GiB available, {'no limit' if limit is None else f'{limit / GIB:.1f} GiB by the cgroup'}"
    least = min(available, limit if limit is not None else available)
    return _check("memory", text, fails=MEMORY if least < GIB / 4 else "", warns=MEMORY if least < LEAST_MEMORY else "")


def encoding(stdout: str, locale: str) -> Check:
    """Checks the encodings of stdout and of the locale. Files are always UTF-8."""
    lacking = ""
    if "utf" not in stdout.lower():
        lacking = "characters that stdout cannot print appear as codes, such as \\xd7 for a multiplication sign. Set LC_ALL=C.UTF-8"
    return _check("encoding", f"stdout {stdout}, locale {locale}, files UTF-8", warns=lacking)


def user(name: str, folder: str, *, temporary: bool, writable: bool) -> Check:
    """Checks the user's name and home folder."""
    why = "file lists are not cached. Set HOME to a writable folder"
    text = f"{name}, HOME {folder}"
    if temporary:
        return _check("user", text, warns="a temporary folder, because the user has no home. Set HOME")
    return _check("user", text, warns="" if writable else f"cannot be written: {why}")


def folders(cwd: str | None, temporary: str | None) -> Check:
    """Checks the working folder (None: it was removed) and the temporary folder (None: there is no writable one)."""
    text = f"working {cwd}, temporary {temporary}" if cwd and temporary else ""
    return _check("folders", text, fails=CWD if cwd is None else TEMPORARY if temporary is None else "")


def disk(name: str, folder: str, free: int | None) -> Check:
    """Checks the free bytes of an output folder. None: the folder cannot be written."""
    if free is None:
        return _check(
            name, folder, fails="cannot be written. Choose another folder, or give this user write permission"
        )
    text = f"{free / GIB:,.1f} GiB free in {folder}"
    return _check(
        name, text, fails=DISK if free < MIB else "", warns=f"less than 1 GiB: {DISK}" if free < LEAST_DISK else ""
    )


def cache(folder: str, *, writable: bool) -> Check:
    """Checks the folder of the cached file lists."""
    why = "cannot be written, so files are listed again at each start. Set XDG_CACHE_HOME to a writable folder"
    return _check("listing cache", folder, warns="" if writable else why)


def clock(now: float) -> Check:
    """Checks the clock, in seconds since 1970."""
    text = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    return _check(
        "clock", text, fails="" if now >= EPOCH_2024 else "in the past, so runs would be sorted wrongly. Set the clock"
    )


def driver(names: list[str], version: str, *, emulated: bool = False) -> Check:
    """The GPUs that the driver lists, and its version. ``emulated``: the run uses no GPU, even if there is one."""
    if names:
        text = f"{version}: {', '.join(names)}" + "; not used, since the accelerator is emulated" * emulated
    else:
        use = "none is needed, since the accelerator is emulated" if emulated else "runs are on the CPU"
        text = f"no NVIDIA driver or no GPU: {use}"
    return _check("driver", text)


def store(uri: str, error: str) -> Check:
    """Checks the MLflow store. ``error``: the reason why it cannot be written, or empty."""
    return _check("store", "" if error else f"{uri} can be written", fails=error)


def device(name: str, error: str) -> Check:
    """The device of a run. ``error``: the reason why there is none, or empty."""
    return _check("device", "" if error else name, fails=error)


def working_folders() -> Check:
    """The check `folders` for this process."""
    try:
        cwd: str | None = os.getcwd()
    except OSError:
        return folders(None, None)
    try:
        return folders(cwd, tempfile.gettempdir())
    except OSError:
        return folders(cwd, None)


def cause(error: BaseException) -> str:
    """The condition that caused an error, in the words of its check; empty if it is none of these conditions."""
    text = safe_text(error)
    if isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in text:
        return MEMORY
    if "shared memory" in text and "No space left" in text:
        return SHM
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EMFILE or "Too many open files" in text:
        return FILES
    return DISK if number in (errno.ENOSPC, errno.EDQUOT) else ""

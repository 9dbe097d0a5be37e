"""Signals, time limits and the end of processes; the identity and the age of a process."""

from __future__ import annotations

import atexit
import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import psutil

from loaderlab.config import UserError
from loaderlab.system import slurm_task
from loaderlab.system.causes import described
from loaderlab.system.streams import flushed

PR_SET_PDEATHSIG = 1  # linux/prctl.h
USUAL_CAUSES = {"SIGKILL": "out of memory", "SIGBUS": "/dev/shm is full"}  # of a process that a signal has ended
BY_SIGTERM = "interrupted by SIGTERM"


class Terminated(KeyboardInterrupt):
    """SIGTERM was received. A subclass of KeyboardInterrupt, so that code that handles Ctrl-C handles it too."""

    exit_code = 128 + signal.SIGTERM


class OutOfTime(KeyboardInterrupt):
    """A job of a sweep exceeded its time limit."""


def error_line(error: BaseException) -> str:
    """An error in one line, for a run's tag."""
    if isinstance(error, KeyboardInterrupt):
        if isinstance(error, OutOfTime):
            return str(error)
        if isinstance(error, Terminated):
            end = slurm_task.end_of_own_job()
            return f"{end}, with SIGTERM" if end else BY_SIGTERM
        return "interrupted by Ctrl-C"
    if isinstance(error, UserError):  # its text is already one line for the user
        return " ".join(str(error).split("\n"))
    return described(error)


def signal_name(number: int) -> str:
    """SIGKILL for 9; ``signal 40`` for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def leave(code: int) -> NoReturn:
    """Runs the atexit handlers, then ends the process at once: the normal shutdown with torch and mlflow takes 2 to 3 s.

    Calls ``atexit._run_exitfuncs``: no public function runs the handlers without the shutdown. Checked with Python 3.11.
    """
    atexit._run_exitfuncs()
    os._exit(code if flushed() else code or 1)


def time_limit_raises(
    number: int | None = None, reason: str = "took longer than its time limit, sweep.job_minutes"
) -> None:
    """From now on, this signal (None: SIGUSR1) raises `OutOfTime` in the main thread. A sweep sends it to a job that exceeds its time
    limit."""

    def end(number: int, frame: FrameType | None) -> None:
        if not _deferred(number, frame):
            raise OutOfTime(reason)

    signal.signal(signal.SIGUSR1 if number is None else number, end)


@contextmanager
def importing() -> Iterator[None]:
    """Disables garbage collection during imports, because it takes a sixth of the time to import torch and mlflow."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def sigterm_raises(*, hangup: bool = False) -> Iterator[list[int]]:
    """Raises `Terminated` in the main thread on SIGTERM. Restores the previous handler at the end. Yields the numbers of the signals
    that were received, which a handler of Ctrl-C cannot tell from the exception.

    Args:
        hangup: also on SIGHUP, the end of a login, unless it is ignored, as with ``nohup``.
    """

    def terminate(number: int, frame: FrameType | None) -> None:
        if not _deferred(number, frame):
            received.append(number)
            raise Terminated

    received: list[int] = []
    numbers = [signal.SIGTERM]
    if hangup and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        numbers.append(signal.SIGHUP)
    before: dict[int, Any] = {number: signal.signal(number, terminate) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _deferred(number: int, frame: FrameType | None) -> bool:
    """Whether the signal came inside a finalizer. If so, it is sent again 0.05 s later, because Python only prints an exception
    that is raised in a finalizer."""
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
            return True
        frame = frame.f_back
    return False


def ignore_sigterm() -> None:
    """From now on, until `sigterm_raises` ends, SIGTERM is ignored, because the run is writing its record."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


DEFERRED = (
    "SIGINT",
    "SIGTERM",
    "SIGHUP",
    "SIGUSR1",
    "SIGUSR2",
    "SIGALRM",
    "SIGCHLD",
)  # Windows does not have all of them
_deferring = False  # inside `undisturbed`; only for the main thread, because signals raise only there


@contextmanager
def undisturbed() -> Iterator[None]:
    """Defers the exceptions of Ctrl-C, SIGTERM, the time limit and the death of a DataLoader worker until the block has ended. A
    second Ctrl-C is raised at once.

    An exception inside an SQLite statement keeps the connection, and so the lock on the whole file, alive in the traceback. The
    store would be locked when the record is written. This works in the main thread only; in other threads signals raise nothing.
    A nested block is part of the outer one.
    """
    global _deferring
    if threading.current_thread() is not threading.main_thread() or _deferring:
        yield
        return
    before: dict[int, Any] = {}
    deferred: list[tuple[int, FrameType | None]] = []
    over = False

    def defer(number: int, frame: FrameType | None) -> None:
        # `over`: a signal may come at the end, before all handlers are restored
        if over or (number == signal.SIGINT and any(earlier == number for earlier, _ in deferred)):
            before[number](number, frame)
        else:
            deferred.append((number, frame))

    try:
        _deferring = True
        for number in (getattr(signal, name) for name in DEFERRED):
            if callable(handler := signal.getsignal(number)):  # neither the default nor ignored
                before[number] = handler
                signal.signal(number, defer)
        yield
    finally:
        over, _deferring = True, False
        for earlier, handler in before.items():
            signal.signal(earlier, handler)
        if deferred:
            first, frame = min(
                deferred, key=lambda entry: entry[0] == signal.SIGCHLD
            )  # SIGCHLD last: torch checks again
            before[first](first, frame)


def end_with_parent() -> None:
    """From now on, this process gets SIGTERM when its parent process has ended for any reason."""
    _after_parent("parent-watch", lambda: os.kill(os.getpid(), signal.SIGTERM))


def exit_with_parent() -> None:
    """From now on, this process, whose work is done, exits at once when its parent process has ended for any reason."""
    _after_parent("parent-exit", lambda: os._exit(0))


def _after_parent(thread_name: str, act: Callable[[], object]) -> None:
    """Calls a function in a thread when the parent process has ended for any reason."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "not a child of multiprocessing"

    def watch() -> None:
        wait([parent.sentinel])
        act()

    threading.Thread(target=watch, name=thread_name, daemon=True).start()


def killed_with_parent() -> None:
    """From now on, on Linux, the kernel kills this process when the thread that started it ends for any reason.

    Call it in a process that `multiprocessing` forked or spawned. On other systems it does nothing.
    """
    parent = multiprocessing.parent_process()
    if sys.platform != "linux" or parent is None:
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent.pid:  # the parent died before this call
        os.kill(os.getpid(), signal.SIGKILL)


def process_identity(pid: int) -> str | None:
    """An identity of this process that no other process with the same number has; None if there is no such process.

    On Linux it is the boot id and the start time in clock ticks since boot, which do not depend on the wall clock.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        return f"{psutil.Process(pid).create_time():.0f}" if psutil.pid_exists(pid) else None
    state, *_, started = status.rpartition(")")[2].split()[:20]
    return None if state in "ZX" else f"{boot}-{started}"


def process_age_s() -> float:
    """Seconds since this process was started, including imports."""
    if not Path("/proc/self/stat").exists():
        return time.time() - psutil.Process().create_time()
    started = int(Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")

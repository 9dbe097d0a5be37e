"""Signals, time limits and the end of processes; which process is which, and how old it is."""

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
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import psutil

from loaderlab.config import UserError
from loaderlab.system.causes import described
from loaderlab.system.streams import flushed

PR_SET_PDEATHSIG = 1  # linux/prctl.h
USUAL_CAUSES = {"SIGKILL": "out of memory", "SIGBUS": "/dev/shm is full"}  # of a process that a signal has ended


class Terminated(KeyboardInterrupt):
    """SIGTERM came. A KeyboardInterrupt, so that what handles Ctrl-C handles it as well."""

    exit_code = 128 + signal.SIGTERM


class OutOfTime(KeyboardInterrupt):
    """A job of a sweep took longer than its time limit."""


def error_line(error: BaseException) -> str:
    """An error in one line, for a run's tag."""
    if isinstance(error, KeyboardInterrupt):
        if isinstance(error, OutOfTime):
            return str(error)
        return "interrupted by SIGTERM" if isinstance(error, Terminated) else "interrupted by Ctrl-C"
    if isinstance(error, UserError):  # its text is one line that was written for the user
        return " ".join(str(error).split("\n"))
    return described(error)


def signal_name(number: int) -> str:
    """SIGKILL for 9; ``signal 40`` for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def leave(code: int) -> NoReturn:
    """Runs the atexit handlers and ends the process at once: tearing torch and mlflow down takes the interpreter 2 to 3 s.

    Calls ``atexit._run_exitfuncs``: no public function runs the handlers without the teardown. Checked with Python 3.11.
    """
    atexit._run_exitfuncs()
    os._exit(code if flushed() else code or 1)


def time_limit_raises() -> None:
    """From now on SIGUSR1 raises `OutOfTime` in the main thread: how a sweep tells a job that its time is over."""

    def end(number: int, frame: FrameType | None) -> None:
        if not _put_off(number, frame):
            raise OutOfTime("took longer than its time limit, sweep.job_minutes")

    signal.signal(signal.SIGUSR1, end)


@contextmanager
def importing() -> Iterator[None]:
    """Without garbage collection: it would walk all that torch and mlflow bring, again and again, for a sixth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Raises `Terminated` in the main thread when SIGTERM comes; the former handler is put back at the end."""

    def terminate(number: int, frame: FrameType | None) -> None:
        if not _put_off(number, frame):
            raise Terminated

    before: Any = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _put_off(number: int, frame: FrameType | None) -> bool:
    """Sends a signal again, a moment later, where it came within a finalizer: what is raised there Python prints and forgets."""
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
            return True
        frame = frame.f_back
    return False


def ignore_sigterm() -> None:
    """From now on, until `sigterm_raises` ends, SIGTERM is ignored: the run is ending and writes its record."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


_held_off = False  # within `undisturbed`; of the main thread, the only one that raises on signals


@contextmanager
def undisturbed() -> Iterator[None]:
    """Puts off what Ctrl-C, SIGTERM, the time limit and the death of a DataLoader worker raise until the block has ended; a
    second Ctrl-C comes through.

    An exception raised within a statement of SQLite keeps its connection, and with it the lock on the whole file, alive in
    the traceback: the record that is to follow would find the store locked. In the main thread only; elsewhere nothing is
    raised by signals. A block within a block is part of it.
    """
    global _held_off
    if threading.current_thread() is not threading.main_thread() or _held_off:
        yield
        return
    before: dict[int, Any] = {}
    held: list[tuple[int, FrameType | None]] = []
    over = False

    def hold(number: int, frame: FrameType | None) -> None:
        # after the end too, should a signal come between two handlers that are put back
        if over or (number == signal.SIGINT and any(earlier == number for earlier, _ in held)):
            before[number](number, frame)
        else:
            held.append((number, frame))

    try:
        _held_off = True
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD):
            if callable(handler := signal.getsignal(number)):  # neither the default nor ignored
                before[number] = handler
                signal.signal(number, hold)
        yield
    finally:
        over, _held_off = True, False
        for earlier, handler in before.items():
            signal.signal(earlier, handler)
        if held:
            first, frame = min(held, key=lambda entry: entry[0] == signal.SIGCHLD)  # that comes up again by itself
            before[first](first, frame)


def end_with_parent() -> None:
    """From now on this process gets SIGTERM when the process that started it is gone, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "not a child of multiprocessing"

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def killed_with_parent() -> None:
    """From now on, on Linux, the kernel kills this process when the thread that started it ends, however that happens.

    To be called in a process that `multiprocessing` has forked or spawned. Elsewhere it does nothing.
    """
    parent = multiprocessing.parent_process()
    if sys.platform != "linux" or parent is None:
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent.pid:  # it has died before the call
        os.kill(os.getpid(), signal.SIGKILL)


def process_identity(pid: int) -> str | None:
    """What tells this process from any other that has or will have its number; None where there is none.

    On Linux the boot and the start in clock ticks since then, which no change of the wall clock moves.
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
    """Seconds since this process was started, imports included."""
    if not Path("/proc/self/stat").exists():
        return time.time() - psutil.Process().create_time()
    started = int(Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")

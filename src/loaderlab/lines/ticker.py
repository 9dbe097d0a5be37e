"""Asks the processes of a profile for their stacks: a process of its own, which needs only the standard library.

A timer inside a worker would be in step with it, would need a signal that programs use (SIGALRM), and could not tell whether the worker was
waiting: the signal wakes it. This process looks whether the main thread computes or waits, and then sends the signals: one for the stack, and
one for the time.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import struct
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

# used by no library that is known; other systems than Linux are refused, see `loaderlab.lines.control.WorkerProfile`
STACK_SIGNAL, TIME_SIGNAL = (signal.SIGRTMIN + 9, signal.SIGRTMIN + 10) if sys.platform == "linux" else (0, 0)
TGKILL = {"x86_64": 234, "aarch64": 131}  # the number of the system call, by machine
INTERVAL_S = (
    0.01  # mean time between two samples. A stack takes about 0.15 ms, so a process is slowed down by about 2 %
)
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
ATTRIBUTES, SLICE_NS = "=IIQiIQQQ", 100_000  # sched_attr of sched_setattr(2); the shortest slice
PRIORITY = -10
LOOK_S = 0.05  # between two looks for new processes
MOST_THREADS = 32  # of a process, whose states are read
READY = b'@["ready"]'  # in a sampler's file: the process has its handler
RUNNING, ENDED = "R", "X"  # the states of a thread that computes or waits for a core, and of one that has ended


class Process:
    """A process that is sampled. Its ``.ticks`` file gets a line for each sample: the time on the clock `time.perf_counter_ns`, the state of
    the main thread as in proc(5), and how many other threads compute."""

    def __init__(self, path: Path) -> None:
        self._pid = int(path.stem.partition("-")[2])
        self._handle = os.pidfd_open(self._pid)  # the number of an ended process may belong to another one later
        self._ticks = path.with_suffix(".ticks").open("w", encoding="utf-8", buffering=1)
        self._tasks = f"/proc/{self._pid}/task"

    def tick(self) -> bool:
        """Takes a sample; returns whether the process lives."""
        try:
            state = self._state(self._pid) or ENDED
            others = [int(name) for name in os.listdir(self._tasks)[:MOST_THREADS] if int(name) != self._pid]
            computing = sum(self._state(thread) == RUNNING for thread in others)
            self._ticks.write(f"{time.perf_counter_ns()} {state} {computing}\n")
            signal.pidfd_send_signal(
                self._handle, 0
            )  # an error if it has ended, and its number may belong to another process
            for number in (STACK_SIGNAL, TIME_SIGNAL):
                _send(self._pid, number)
        except OSError:
            return False
        return True

    def _state(self, thread: int) -> str:
        """A letter; empty if the thread has ended."""
        with suppress(OSError):
            file = os.open(f"{self._tasks}/{thread}/stat", os.O_RDONLY)
            try:
                return os.read(file, 256).rpartition(b") ")[2][:1].decode()
            finally:
                os.close(file)
        return ""


_libc = ctypes.CDLL(None, use_errno=True)


def _send(pid: int, number: int) -> None:
    """Sends a signal to the main thread. One to the process may reach any of its threads.

    Raises:
        OSError: it has ended.
    """
    if _libc.syscall(TGKILL[os.uname().machine], pid, pid, number):
        raise OSError(ctypes.get_errno(), "tgkill")


def _run_at_once() -> None:
    """Makes this process preempt others when it wakes. Otherwise it runs when a worker on the same core waits, and waits would count too much: up
    to 20 points, measured with Linux 6.18."""
    attributes = struct.pack(ATTRIBUTES, struct.calcsize(ATTRIBUTES), 0, 0, 0, 0, SLICE_NS, 0, 0)
    _libc.syscall(SCHED_SETATTR[os.uname().machine], 0, attributes, 0)  # before Linux 6.12, it changes nothing
    with suppress(OSError):  # only root may
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)


def main(arguments: Sequence[str]) -> None:
    """Samples all processes that have a file in a folder, until the end.

    Args:
        arguments: the folder, the pattern of the files, the end in ns on the clock `time.perf_counter_ns`.
    """
    folder, pattern, end_ns = Path(arguments[0]), arguments[1], int(arguments[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program, which ends this process
    processes: dict[Path, Process | None] = {}
    parent, looked = os.getppid(), 0.0
    _run_at_once()
    while time.perf_counter_ns() < end_ns and os.getppid() == parent:
        if time.perf_counter() > looked + LOOK_S:
            for path in folder.glob(pattern):
                if path not in processes and READY in path.read_bytes():
                    with suppress(OSError):  # it has ended
                        processes[path] = Process(path)
            looked = time.perf_counter()
        for path, process in processes.items():
            if process is not None and not process.tick():
                processes[path] = None
        time.sleep(INTERVAL_S * random.uniform(0.5, 1.5))


if __name__ == "__main__":
    main(sys.argv[1:])

"""Samples the stack of this process's main thread at a timer's signals, for a limited time. Does not import torch.

Python runs its own signal handlers only between some instructions: the time of ``a * b`` would count for a later line. A sampling thread is
biased too, because it runs when the sampled code releases the GIL. `faulthandler` writes the stack inside the signal itself, in C, and
then calls Python's handler, which adds the times. So a line counts whether it computes in Python, in C with or without the GIL, sleeps, or waits.
"""

from __future__ import annotations

import faulthandler
import json
import multiprocessing.util
import os
import random
import signal
import threading
from pathlib import Path
from time import perf_counter_ns, process_time_ns, thread_time_ns
from types import CodeType, FrameType
from typing import Any

from loaderlab.lines.stacks import BEGIN, CALLABLES, MARK, OWNER, PROBLEM, TIMES

INTERVAL_MS = 10.0  # a stack takes about 0.15 ms, so the process is slowed down by about 1.5 %
TIMED_EVERY = 16  # samples between two measurements of how long a stack takes
IN_USE = "the program uses SIGALRM or its timer itself, so the profiler cannot (signal.alarm, signal.setitimer or a handler of SIGALRM)"
MAIN_THREAD = "the loader runs in another thread than the main one, which the profiler cannot sample"


class StackSampler:
    """Samples this process.

    Args:
        path: the file for `loaderlab.lines.stacks.read`; it is created by `install`.
        seconds: from `start` to the end of the sampling, which ends by itself.
        interval_ms: mean time between two samples.
    """

    def __init__(self, path: Path, seconds: float, interval_ms: float = INTERVAL_MS) -> None:
        self._path, self._seconds, self._interval_s = path, seconds, interval_ms / 1e3
        self._random = random.Random(os.getpid())  # its own: the program's random numbers stay the same
        self._file = self._scratch = -1
        self._end_ns = self._next_cost_ns = self._dump_ns = self._num = 0
        self._owners: dict[tuple[CodeType, type], int] = {}
        self._last_lines: dict[CodeType, int] = {}
        self.installed = self.running = False

    def install(self) -> str:
        """Prepares for `start`, which the first SIGALRM from another process calls too.

        Returns:
            Why this process cannot be sampled; empty if it can.
        """
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        problem = ""
        if threading.current_thread() is not threading.main_thread():
            problem = MAIN_THREAD
        elif signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL or any(signal.getitimer(signal.ITIMER_REAL)):
            problem = IN_USE
        if problem:
            self._write(PROBLEM, problem)
            return problem
        signal.signal(signal.SIGALRM, self._ticked)
        faulthandler.register(signal.SIGALRM, file=self._file, all_threads=False, chain=True)
        self._scratch = os.memfd_create("loaderlab_stack", os.MFD_CLOEXEC)
        multiprocessing.util.Finalize(None, self.stop, exitpriority=0)
        self.installed = True
        return ""

    def start(self) -> None:
        """Starts the sampling; call it in the main thread after `install`."""
        if not self.running:
            self.running = True
            self._end_ns = perf_counter_ns() + int(self._seconds * 1e9)
            self._write(BEGIN, perf_counter_ns(), thread_time_ns(), process_time_ns())
            signal.setitimer(signal.ITIMER_REAL, self._interval_s, self._interval_s)

    def stop(self) -> None:
        """Ends the sampling and restores SIGALRM; a second call does nothing. Notes a problem if the program has changed SIGALRM."""
        if not self.installed:
            return
        self.installed = False
        # a bound method is a new object each time; `alarm` would have set a timer without an interval
        own = signal.getsignal(signal.SIGALRM) == self._ticked
        if self.running and not (own and signal.getitimer(signal.ITIMER_REAL)[1] > 0):
            self._write(PROBLEM, IN_USE)
        elif own:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self.running = False
        if own:
            faulthandler.unregister(signal.SIGALRM)
            signal.signal(signal.SIGALRM, signal.SIG_IGN)  # a late signal must not end the process
        os.close(self._file)
        os.close(self._scratch)

    def _ticked(self, number: int, frame: FrameType | None) -> None:
        began = perf_counter_ns()
        if not self.running:
            if self.installed:
                self.start()
            return
        cost = self._next_cost_ns + self._dump_ns
        self._write(TIMES, began, thread_time_ns(), process_time_ns(), cost, self._owners_in(frame))
        if self._num % TIMED_EVERY == 0:
            self._time_a_stack()
        self._num += 1
        if began > self._end_ns:
            self.stop()
            return
        # in step with the program's own period, samples would always meet the same line
        signal.setitimer(signal.ITIMER_REAL, self._interval_s * self._random.uniform(0.5, 1.5), self._interval_s)
        self._next_cost_ns = perf_counter_ns() - began

    def _time_a_stack(self) -> None:
        before = perf_counter_ns()
        faulthandler.dump_traceback(file=self._scratch, all_threads=False)
        self._dump_ns = perf_counter_ns() - before
        os.ftruncate(self._scratch, 0)
        os.lseek(self._scratch, 0, os.SEEK_SET)

    def _owners_in(self, frame: FrameType | None) -> list[int]:
        """The numbers of the classes whose objects are being called, the outermost first."""
        numbers = []
        while frame is not None:
            code = frame.f_code
            if code.co_name in CALLABLES and code.co_varnames[:1] == ("self",):
                numbers.append(self._owner(code, type(frame.f_locals.get("self"))))
            frame = frame.f_back
        return numbers[::-1]

    def _owner(self, code: CodeType, cls: type) -> int:
        number = self._owners.get((code, cls))
        if number is None:
            number = self._owners[code, cls] = len(self._owners)
            last = max((line for _, _, line in code.co_lines() if line is not None), default=code.co_firstlineno)
            definer = code.co_qualname.rpartition(".")[0].rpartition(".")[2]
            self._write(OWNER, code.co_filename, code.co_firstlineno, last, cls.__name__, definer)
        return number

    def _write(self, *entry: Any) -> None:
        os.write(self._file, (MARK + json.dumps(entry) + "\n").encode())

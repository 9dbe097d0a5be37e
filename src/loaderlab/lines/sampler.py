"""Samples the stack of this process's main thread at a timer's signals, for a limited time. Does not import torch.

Python runs its own signal handlers only between some instructions: the time of ``a * b`` would count for a later line. A sampling thread is
biased too, because it runs when the sampled code releases the GIL. `faulthandler` writes the stack inside the signal itself, in C, and
then calls Python's handler, which adds the times. So a line counts whether it computes in Python, in C with or without the GIL, sleeps, or waits.

A second timer, of CPU time, writes the stacks into a file of their own: the lines that compute, in contrast to those that wait. Its signals
arrive in the thread that computes (in the main thread before Linux 6.4).
"""

from __future__ import annotations

import faulthandler
import json
import multiprocessing.util
import os
import random
import signal
import threading
from contextlib import suppress
from pathlib import Path
from time import perf_counter_ns, process_time_ns, thread_time_ns
from types import CodeType, FrameType
from typing import Any

from loaderlab.lines.stacks import BEGIN, CALLABLES, END, MARK, OWNER, PROBLEM, READY, TIMES, cpu_file

CPU_INTERVAL_MS = 20  # of CPU time, all threads together
INTERVAL_MS = 10.0  # a stack takes about 0.15 ms, so the process is slowed down by about 2 %
TIMED_EVERY = 16  # samples between two measurements of how long a stack takes
IN_USE = "the program uses SIGALRM or SIGPROF itself (signal.alarm, signal.setitimer or a handler), so the profiler cannot"
TIMERS = ((signal.SIGALRM, signal.ITIMER_REAL), (signal.SIGPROF, signal.ITIMER_PROF))
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
        self._file = self._cpu_file = self._scratch = -1
        self._end_ns = self._cost_ns = self._stack_cost_ns = self._num = 0
        self._owners: dict[tuple[CodeType, type], int] = {}
        self._last_lines: dict[CodeType, int] = {}
        self.installed = self.running = False

    def install(self) -> str:
        """Prepares for `start`, which the first SIGALRM from another process calls too.

        Returns:
            Why this process cannot be sampled; empty if it can.
        """
        self._file = _created(self._path)
        problem = ""
        if threading.current_thread() is not threading.main_thread():
            problem = MAIN_THREAD
        elif any(signal.getsignal(number) is not signal.SIG_DFL or any(signal.getitimer(timer)) for number, timer in TIMERS):
            problem = IN_USE
        if problem:
            self._write(PROBLEM, problem)
            return problem
        signal.signal(signal.SIGALRM, self._ticked)
        faulthandler.register(signal.SIGALRM, file=self._file, all_threads=False, chain=True)
        self._cpu_file = _created(cpu_file(self._path))
        signal.signal(signal.SIGPROF, signal.SIG_IGN)  # what `unregister` restores: the default would end the process
        faulthandler.register(signal.SIGPROF, file=self._cpu_file, all_threads=False)
        self._scratch = os.memfd_create("loaderlab_stack", os.MFD_CLOEXEC)
        multiprocessing.util.Finalize(None, self.stop, exitpriority=0)
        self.installed = True
        self._write(READY)
        return ""

    def start(self) -> None:
        """Starts the sampling; call it in the main thread after `install`."""
        if not self.running:
            self.running = True
            self._end_ns = perf_counter_ns() + int(self._seconds * 1e9)
            self._write(BEGIN, perf_counter_ns(), thread_time_ns(), process_time_ns())
            signal.setitimer(signal.ITIMER_REAL, self._interval_s, self._interval_s)
            signal.setitimer(signal.ITIMER_PROF, CPU_INTERVAL_MS / 1e3, CPU_INTERVAL_MS / 1e3)

    def stop(self) -> None:
        """Ends the sampling and releases the signals; a second call does nothing. Notes a problem if the program has changed them."""
        if not self.installed:
            return
        self.installed = False
        # a bound method is a new object each time
        own = signal.getsignal(signal.SIGALRM) == self._ticked and signal.getsignal(signal.SIGPROF) is signal.SIG_IGN
        # `signal.alarm` sets the timer without an interval
        if not own or (self.running and not all(signal.getitimer(timer)[1] > 0 for _, timer in TIMERS)):
            self._write(PROBLEM, IN_USE)
        self.running = False
        with suppress(OSError):
            self._write(END)
        if own:
            for number, timer in TIMERS:
                signal.setitimer(timer, 0)
                faulthandler.unregister(number)
                signal.signal(number, signal.SIG_IGN)  # drops a signal that is on its way, whose default would end the process
                signal.signal(number, signal.SIG_DFL)
        for file in (self._file, self._cpu_file, self._scratch):
            os.close(file)

    def _ticked(self, number: int, frame: FrameType | None) -> None:
        """The handler. It raises nothing, because the error would reach the program."""
        try:
            if self.running:
                self._sample(frame)
            elif self.installed:
                self.start()
        except OSError:  # a full disk
            self.stop()

    def _sample(self, frame: FrameType | None) -> None:
        began = perf_counter_ns()
        costs = self._cost_ns, self._stack_cost_ns  # of the sample before this one
        self._write(TIMES, began, thread_time_ns(), process_time_ns(), *costs, self._owners_in(frame))
        if self._num % TIMED_EVERY == 0:
            self._time_a_stack()
        self._num += 1
        if began > self._end_ns:
            self.stop()
            return
        # in step with a period of the program, samples would always meet the same line
        signal.setitimer(signal.ITIMER_REAL, self._interval_s * self._random.uniform(0.5, 1.5), self._interval_s)
        self._cost_ns = perf_counter_ns() - began

    def _time_a_stack(self) -> None:
        before = perf_counter_ns()
        faulthandler.dump_traceback(file=self._scratch, all_threads=False)
        self._stack_cost_ns = perf_counter_ns() - before
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


def _created(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

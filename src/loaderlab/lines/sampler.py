"""Writes the stack of this process's main thread whenever `loaderlab.lines.ticker` asks for it. Does not import torch.

Python runs its own signal handlers only between some instructions: the time of ``a * b`` would count for a later line. A sampling thread is
biased too, because it runs when the sampled code releases the GIL. `faulthandler` writes the stack inside a signal, in C; a second signal calls
Python's handler, which adds the CPU time. So a line counts whether it computes in Python, in C with or without the GIL, sleeps, or waits.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import mmap
import multiprocessing.util
import os
import signal
import threading
from pathlib import Path
from time import perf_counter_ns, thread_time_ns
from types import CodeType, FrameType
from typing import Any

from loaderlab.lines.stacks import BEGIN, CALLABLES, MARK, OWNER, PROBLEM, READY, TIMES
from loaderlab.lines.ticker import STACK_SIGNAL, TIME_SIGNAL
from loaderlab.system.causes import described

TIMED_EVERY = 16  # samples between two measurements of how long a stack takes
HANDLERS_BYTES = 2**18  # of the stack on which signal handlers run
IN_USE = f"the program uses signal {STACK_SIGNAL} or {TIME_SIGNAL}, which the profiler needs"
SIGNALS = STACK_SIGNAL, TIME_SIGNAL
MAIN_THREAD = "the loader runs in another thread than the main one, which the profiler cannot sample"


class StackSampler:
    """Prepares this process for the ticker.

    Args:
        path: the file for `loaderlab.lines.stacks.read`; it is created by `install`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = self._scratch = -1
        self._cost_ns = self._stack_cost_ns = self._num = 0
        self._owners: dict[tuple[CodeType, type], int] = {}
        self._installed = False

    def install(self) -> str:
        """Installs the handler; the ticker notices the file.

        Returns:
            Why this process cannot be sampled; empty if it can. The file says the same, if it can be written.
        """
        try:
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            problem = self._prepare()
            if problem:
                self._write(PROBLEM, problem)
                os.close(self._file)
        except OSError as error:  # no file descriptor, no memory, no folder: the program goes on without a profile
            problem = f"the sampling could not be prepared: {described(error)}"
        return problem

    def _prepare(self) -> str:
        problem = ""
        if threading.current_thread() is not threading.main_thread():
            problem = MAIN_THREAD
        elif any(signal.getsignal(number) not in (signal.SIG_DFL, signal.SIG_IGN) for number in SIGNALS):
            problem = IN_USE
        if problem:
            return problem
        self._scratch = os.memfd_create("loaderlab_stack", os.MFD_CLOEXEC)
        self._installed = True
        signal.signal(TIME_SIGNAL, self._ticked)
        signal.siginterrupt(TIME_SIGNAL, False)  # C libraries may not expect that a call is interrupted
        signal.signal(STACK_SIGNAL, signal.SIG_IGN)  # what `unregister` restores
        # not with chain=True: a signal could then interrupt its own handler again and again, until their stack is full
        faulthandler.register(STACK_SIGNAL, file=self._file, all_threads=False)
        _enlarge_stack_of_handlers()
        multiprocessing.util.Finalize(None, self.stop, exitpriority=0)
        self._write(READY)
        return ""

    def stop(self) -> None:
        """Ignores the signal from now on; a second call does nothing. A process that ends calls it by itself."""
        if not self._installed:
            return
        self._installed = False
        faulthandler.unregister(STACK_SIGNAL)
        signal.signal(
            TIME_SIGNAL, signal.SIG_IGN
        )  # the ticker may not have noticed the end; the default kills the process
        os.close(self._file)
        os.close(self._scratch)

    def _ticked(self, number: int, frame: FrameType | None) -> None:
        """The handler. It raises nothing, because the error would reach the program."""
        if not self._installed:
            return
        now, began = perf_counter_ns(), thread_time_ns()
        try:
            if self._num == 0:
                self._write(BEGIN, now, began)
            else:
                costs = self._cost_ns, self._stack_cost_ns  # of the sample before this one
                self._write(TIMES, now, began, *costs, self._owners_in(frame))
            if self._num % TIMED_EVERY == 0:
                self._time_a_stack()
        except Exception:  # a full disk, or no room for another call
            return
        self._num += 1
        self._cost_ns = thread_time_ns() - began  # in CPU time: other programs may have taken the core

    def _time_a_stack(self) -> None:
        before = thread_time_ns()
        faulthandler.dump_traceback(file=self._scratch, all_threads=False)
        self._stack_cost_ns = thread_time_ns() - before
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


class _Stack(ctypes.Structure):
    """``stack_t`` of sigaltstack(2)."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


_handlers: list[mmap.mmap] = []  # the stack of the handlers, for as long as the process lives


def _enlarge_stack_of_handlers() -> None:
    """Gives this thread a larger stack for its signal handlers. faulthandler's has 12 KiB; the registers of a processor with matrix units (AMX)
    need 11 KiB for each handler, and one may interrupt another."""
    if not _handlers:
        # private: a forked process would otherwise write to the same stack
        _handlers.append(mmap.mmap(-1, HANDLERS_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    start = ctypes.addressof(ctypes.c_char.from_buffer(_handlers[0]))
    stack = _Stack(start, 0, HANDLERS_BYTES)
    if ctypes.CDLL(None, use_errno=True).sigaltstack(ctypes.byref(stack), None):
        raise OSError(ctypes.get_errno(), "sigaltstack")

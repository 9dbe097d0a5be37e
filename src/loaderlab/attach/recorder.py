"""Records when a program asks its loaders for batches and when its optimizers step. Does not import torch.

One recorder exists per process, because the hooks that call it are global (see `loaderlab.attach.hooks`). A row costs some
microseconds of a program's step; nothing is computed before the program has ended.
"""

from __future__ import annotations

import io
import os
import threading
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Protocol

from loaderlab.attach.events import (
    BATCH,
    COLLECTIVE,
    COLUMNS,
    OPTIMIZER,
    UNKNOWN,
    Events,
    Kind,
    LoaderFacts,
    Program,
    Rows,
    Usage,
    lines,
)
from loaderlab.attach.passes import Pass

FLUSH_NS = 1_000_000_000  # between two flushes to the file
USAGE_NS = 2_000_000_000  # between two readings of CPU time, which take about 10 ms per process
IN_FLIGHT = 64  # events of a device that may be unread: far more than a host runs ahead of its GPU
IDLE, SINCE = 8, 9  # columns of `Row`
PENDING = -2  # a device time that has not arrived
PACKED_AT = 256  # rows


class Clock(Protocol):
    """The clock of an asynchronous device; see `loaderlab.attach.device_clock`."""

    def now(self) -> Any:
        """An event behind the work that is queued now."""

    def reached(self, event: Any) -> bool:
        """Whether the device has reached it; does not wait."""

    def ns(self, start: Any, end: Any) -> int:
        """The device's time between two events; waits until it has reached the second."""


class Recorder:
    """The rows of this process.

    Attributes:
        on: whether rows are recorded; the hooks only pass through while it is False.
        collecting: whether collectives are recorded: while `on`, and between `collect` and `collected`.
        started: `start` was called, and `stop` was not; the recording may have ended after its number of steps.
        clock: of the device; None while it is not known, and for a device without a clock of its own.
        step_thread: the thread of the first optimizer step; None before it.
        recording: a different object for each recording, with which loaders are marked.
        main_thread: the thread that started the recording.
        recent: the newest rows, before they are packed. To take little time, hooks append short forms of the rows that
            have no device times, see `_whole_row`.
        inside: threads inside a call that is measured.
        children: processes that multiprocessing has started, apart from loaders' workers.
    """

    def __init__(self) -> None:
        self.on = self.collecting = False
        self.started = False
        self._num_collectors = 0
        self.clock: Clock | None = None
        self.step_thread: int | None = None
        self.children = 0
        self.recording = object()
        self.main_thread = threading.get_ident()
        self.inside: set[int] = set()
        self._lock = threading.RLock()  # a signal handler may need it while this thread has it
        self._clear()

    def _clear(self) -> None:
        self.recent: list[Any] = []
        self._values = array("q")
        self._loaders: list[LoaderFacts] = []
        self._usage: list[Usage] = []
        self._program = Program()
        self._passes = 0
        self._num_steps = 0
        self._has_read = False  # a batch since the last step was packed
        self._max_steps: int | None = None
        self._pending: deque[tuple[list[int], Any, Any, Any]] = deque()  # row, previous request, request, arrival
        self._last_request: Any = None
        self._file: io.FileIO | None = None  # without a buffer, which a forked child would write again
        self._flushed_at = self._usage_at = 0
        self._num_flushed = 0  # rows in the file
        self._counters: Callable[[], dict[str, float]] | None = None
        self._used: dict[int, tuple[int, int, dict[str, float]]] = {}  # pass: loader; time and counters at its start

    # ---- start and end -------------------------------------------------------------------------------------------

    def start(
        self, max_steps: int | None, file: Path | None, counters: Callable[[], dict[str, float]] | None = None
    ) -> None:
        """Starts recording with empty rows.

        Args:
            max_steps: number of optimizer steps after which to stop; None: never.
            file: rows are also written to it.
            counters: totals so far of CPU seconds and bytes read.
        """
        self._clear()
        self.clock, self.step_thread, self.children = None, None, 0
        self.recording, self.main_thread = object(), threading.get_ident()
        self._max_steps, self._counters = max_steps, counters
        self._program = Program(stopped_at=max_steps)
        if file is not None:
            self._file = io.FileIO(file, "a")
        self.on = self.collecting = self.started = True

    def stop(self) -> None:
        """Stops recording, and writes the remaining rows to the file."""
        self.on = self.started = False
        self.collecting = self._num_collectors > 0
        for passed in [*self._used]:
            self._add_usage(passed)
        with self._lock:
            self._settle(all_of_them=True)
            self._flush()
            self._close()

    def collect(self, clock: Clock | None) -> None:
        """Starts recording collectives, for a loop that a meter of its own measures; also next to a recording that runs."""
        if not self.started and not self._num_collectors:
            self._clear()
            self.clock, self.step_thread, self.recording = clock, threading.get_ident(), object()
        self._num_collectors += 1
        self.collecting = True

    def collected(self) -> Events:
        """What was recorded, after the end of one `collect`."""
        self._num_collectors -= 1
        self.collecting = self.on or self._num_collectors > 0
        with self._lock:
            self._settle(all_of_them=True)
        return self.events()

    def tidy(self) -> None:
        """Packs the newest rows if they are many; call it once per step of a loop for which collectives are recorded."""
        if len(self.recent) > PACKED_AT:
            self._pack()

    def abandon(self) -> None:
        """Ends the recording in a forked child: its parent writes the rows."""
        self.on = self.collecting = self.started = False
        self._lock = threading.RLock()  # another thread of the parent may have it
        self._close()

    def describe(self, **facts: Any) -> None:
        """Sets facts about the program."""
        self._program = replace(self._program, **facts)
        self._write(self._program)

    def events(self) -> Events:
        """Everything recorded so far, up to the first row whose device times have not arrived."""
        self._pack()
        return Events(self._program, tuple(self._loaders), Rows(self._values[:]), tuple(self._usage))

    @property
    def num_rows(self) -> int:
        return len(self._values) // COLUMNS

    # ---- called by the hooks -------------------------------------------------------------------------------------

    def first_step(self, thread: int, clock: Clock | None, **facts: Any) -> None:
        """The first step of an optimizer shows which thread trains, on which device. ``facts``: see `describe`."""
        self.step_thread, self.clock = thread, clock
        self.describe(timed=clock is not None, **facts)

    def started_process(self) -> None:
        self.children += 1

    def enter(self, thread: int) -> bool:
        """Whether a call by this thread is the outermost one, which is measured; call `leave` at its end."""
        if thread in self.inside:
            return False
        self.inside.add(thread)
        return True

    def leave(self, thread: int) -> None:
        self.inside.discard(thread)

    def request(self, thread: int) -> Any:
        """A device event at the moment of a request by the optimizer's thread; None without a device clock."""
        return None if self.clock is None or thread != self.step_thread else self.clock.now()

    def add_loader(self, facts: Callable[[int], LoaderFacts]) -> int:
        """The number of a new loader."""
        with self._lock:
            self._loaders.append(facts(len(self._loaders)))
            self._write(self._loaders[-1])
            return self._loaders[-1].number

    def begin_pass(self, loader: int, now: int) -> int:
        """The number of a new pass over a loader. Reads the counters before it, if the last reading is long ago."""
        self._passes += 1
        passed = self._passes
        if self._counters is not None and (not self._usage_at or now - self._usage_at > USAGE_NS):
            self._used[passed] = (loader, perf_counter_ns(), self._read_counters())
        return passed

    def add(
        self,
        kind: int,
        loader: int,
        passed: int,
        thread: int,
        begin_ns: int,
        end_ns: int,
        samples: int = 0,
        flags: int = 0,
        request: Any = None,
        ahead_ns: int = UNKNOWN,
    ) -> None:
        """Adds a row. ``request``: the device event from `request`, if there is one."""
        if request is None or self.clock is None:
            self.recent.append(
                (kind, loader, passed, thread, begin_ns, end_ns, samples, flags, UNKNOWN, UNKNOWN, ahead_ns)
            )
            return
        with self._lock:
            row = [kind, loader, passed, thread, begin_ns, end_ns, samples, flags, PENDING, PENDING, ahead_ns]
            self.recent.append(row)
            arrival = self.clock.now() if end_ns > begin_ns else request
            self._pending.append((row, self._last_request, request, arrival))
            self._last_request = request
            self._settle()

    def add_collective(self, begin_ns: int, end_ns: int, flags: int, begun: Any) -> None:
        """Adds a collective of the training thread; autograd may call this in a thread of its own.

        Args:
            begun: the device event at its begin, see `device_event`.
        """
        thread = threading.get_ident() if self.step_thread is None else self.step_thread
        clock = self.clock
        if begun is None or clock is None:
            self.recent.append((thread, begin_ns, end_ns, flags))
            return
        with self._lock:
            row = [
                COLLECTIVE, UNKNOWN, UNKNOWN, thread, begin_ns, end_ns, 0, flags, PENDING, PENDING, UNKNOWN
            ]  # fmt: skip
            self.recent.append(row)
            self._pending.append((row, None, begun, clock.now()))
            self._settle()

    def cannot_separate(self, reason: str) -> None:
        """Notes why the exchange of gradients with other ranks cannot be measured; the first reason counts."""
        if not self._program.unseparated:
            self.describe(unseparated=reason)

    def device_event(self) -> Any:
        """A device event now; None without a device clock."""
        return None if self.clock is None else self.clock.now()

    def end_pass(self, passed: int) -> None:
        self._pack()
        self._has_read = True
        if passed in self._used:
            self._add_usage(passed)

    def stepped(self, thread: int, now: int) -> None:
        """Adds a step of an optimizer; writes to the file about once per second."""
        recent = self.recent
        recent.append((thread, now))
        if self._max_steps is not None:
            self._count_step(self._max_steps)
        if len(recent) > PACKED_AT:
            self._pack()
        if self._file is not None and now - self._flushed_at > FLUSH_NS:
            self._flush()
            self._flushed_at = now

    def _count_step(self, max_steps: int) -> None:
        """Counts the step that was just added, unless no batch was read since the one before."""
        kinds = (_whole_row(row)[0] for row in self.recent[-2::-1])
        self._num_steps += self._has_read or any(
            kind in (BATCH, Kind.TAKE) for kind in takewhile(lambda kind: kind != OPTIMIZER, kinds)
        )
        self._has_read = False
        if self._num_steps >= max_steps:
            self.on, self.collecting = False, self._num_collectors > 0

    # ---- the rest ------------------------------------------------------------------------------------------------

    def _settle(self, *, all_of_them: bool = False) -> None:
        """Reads device times that have arrived, and the oldest if too many have not."""
        clock = self.clock
        while self._pending and clock is not None:
            row, before, request, arrival = self._pending[0]
            if not all_of_them and len(self._pending) < IN_FLIGHT and not clock.reached(arrival):
                return
            self._pending.popleft()
            try:
                idle = 0 if arrival is request else clock.ns(request, arrival)
                since = UNKNOWN if before is None else clock.ns(before, request)
            except RuntimeError:  # the device has failed; the script reports that itself
                self.clock = clock = None
                idle = since = UNKNOWN
            row[IDLE], row[SINCE] = idle, since
        if clock is None:
            for row, *_ in self._pending:
                row[IDLE] = row[SINCE] = UNKNOWN
            self._pending.clear()

    def _pack(self) -> None:
        """Moves rows into the array, up to the first whose device times have not arrived. Other threads may append meanwhile."""
        with self._lock:
            recent = self.recent
            rows = [_whole_row(row) for row in recent[:]]
            count = next((index for index, row in enumerate(rows) if row[IDLE] == PENDING), len(rows))
            for row in rows[:count]:
                self._values.extend(row)
            del recent[:count]

    def _flush(self) -> None:
        """Writes the rows whose values are complete to the file."""
        with self._lock:
            self._pack()
            end = self.num_rows
            if self._file is not None and end > self._num_flushed:
                self._write(Rows(self._values)[self._num_flushed : end])
                self._num_flushed = end

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                file.close()

    def _write(self, part: Any) -> None:
        if self._file is not None:
            with suppress(OSError, ValueError):  # a full disk must not end the script
                self._file.write(lines(part).encode())

    def _read_counters(self) -> dict[str, float]:
        assert self._counters is not None
        try:
            counters = self._counters()
        except Exception:  # a process of another user, a restricted /proc: the script must not notice
            self._counters = None
            counters = {}
        self._usage_at = perf_counter_ns()
        return counters

    def _add_usage(self, passed: int) -> None:
        loader, began, before = self._used.pop(passed)
        if self._counters is None or not before:
            return
        after = self._read_counters()
        if "cpu_s" not in after:
            return
        read = after["read_bytes"] - before["read_bytes"] if {"read_bytes"} <= after.keys() & before.keys() else None
        usage = Usage(loader, passed, (perf_counter_ns() - began) / 1e9, after["cpu_s"] - before["cpu_s"], read)
        self._usage.append(usage)
        self._write(usage)


def _whole_row(row: Any) -> Sequence[int]:
    """A row with all its columns, from a short form: (pass, thread, begin, end, samples, flags) of a batch, (thread, time) of a step of
    an optimizer, (thread, begin, end, flags) of a collective."""
    match row:
        case (thread, now):
            return (OPTIMIZER, UNKNOWN, UNKNOWN, thread, now, now, 0, 0, UNKNOWN, UNKNOWN, UNKNOWN)
        case (thread, begin, end, flags):
            return (COLLECTIVE, UNKNOWN, UNKNOWN, thread, begin, end, 0, flags, UNKNOWN, UNKNOWN, UNKNOWN)
        case (Pass(loader=loader, number=number), thread, begin, end, samples, flags):
            return (BATCH, loader, number, thread, begin, end, samples, flags, UNKNOWN, UNKNOWN, UNKNOWN)
    whole: Sequence[int] = row
    return whole


recorder = Recorder()
os.register_at_fork(after_in_child=recorder.abandon)

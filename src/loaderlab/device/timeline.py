"""A device with a known speed: streams on which work of a known duration is queued, and events. It does not import torch.

The timeline behaves as a CUDA device does where it matters for feeding one. Work starts when the host has queued it and the
stream has finished what was queued before. The host runs ahead of the device, but not further than a fixed number of steps.
The timeline has a clock: on a `VirtualClock` every time is exact and known, on a `RealClock` the host really waits.

All times are whole nanoseconds.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import NamedTuple, Protocol

NS_PER_MS = 1_000_000


class TimelineError(RuntimeError):
    """The timeline was used in a way that a CUDA device refuses or leaves undefined."""


class Clock(Protocol):
    """The host's clock."""

    def now(self) -> int:
        """The present, ns."""
        ...

    def sleep_until(self, at_ns: int) -> None:
        """Waits until then, without using the processor; returns at once if it is in the past."""
        ...

    def spend(self, duration_ns: int) -> None:
        """Uses the processor for so long."""
        ...


class VirtualClock:
    """A clock that only moves when the host sleeps, waits or works.

    Each thread has its own present, which begins at the latest present of all threads. A thread of the loader therefore
    does not delay the training thread: the two run at the same time.
    """

    def __init__(self) -> None:
        self._present_ns: dict[int, int] = {}  # by thread

    def now(self) -> int:
        thread = threading.get_ident()
        if thread not in self._present_ns:
            self._present_ns[thread] = max(self._present_ns.values(), default=0)
        return self._present_ns[thread]

    def sleep_until(self, at_ns: int) -> None:
        self._present_ns[threading.get_ident()] = max(self.now(), at_ns)

    def spend(self, duration_ns: int) -> None:
        self.sleep_until(self.now() + duration_ns)


class RealClock:
    """The clock of `time.perf_counter_ns`. `spend` counts the thread's own time: a thread that has to wait for a core, as on a
    crowded machine, needs longer."""

    def now(self) -> int:
        return time.perf_counter_ns()

    def sleep_until(self, at_ns: int) -> None:
        while (left_ns := at_ns - self.now()) > 0:
            time.sleep(left_ns / 1e9)

    def spend(self, duration_ns: int) -> None:
        if not duration_ns:
            return  # reading the thread's time is a system call
        until_ns = time.thread_time_ns() + duration_ns
        while time.thread_time_ns() < until_ns:
            pass


class Busy(NamedTuple):
    """One piece of work: a stream executed it from ``start_ns`` to ``stop_ns``."""

    stream: int
    work: str
    start_ns: int
    stop_ns: int


class Timeline:
    """The streams of one device.

    Args:
        clock: of the host.
        steps_ahead: the host may have queued this many steps that the device has not finished; then it waits, as it does
            when CUDA's launch queue is full.
        log_size: pieces of work that the log keeps; None: all.

    Attributes:
        default: the stream that is used if no other one is chosen.
    """

    def __init__(self, clock: Clock, steps_ahead: int = 4, log_size: int | None = None) -> None:
        assert steps_ahead >= 2, "with fewer, the device waits for the host after each step"
        self.clock, self._steps_ahead = clock, steps_ahead
        self._log: deque[tuple[int, str, int, int]] = deque(maxlen=log_size)  # plain: the garbage collector skips them
        self._streams: list[Stream] = []
        self._lock = threading.Lock()  # a loader's threads queue work too
        self._ends: deque[int] = deque()  # of the queued steps
        self.default = Stream(self)

    @property
    def log(self) -> list[Busy]:
        """The work in the order in which it was queued, on any stream: all of it, or the last ``log_size`` pieces."""
        return [Busy(*entry) for entry in self._log]

    def register(self, stream: Stream) -> int:
        """The number of a new stream."""
        with self._lock:
            self._streams.append(stream)
            return len(self._streams) - 1

    def queue(self, stream: Stream, duration_ns: int, work: str) -> Busy:
        """Queues work on a stream and returns when it will run."""
        assert duration_ns >= 0
        with self._lock:
            start_ns, stop_ns = stream.extend(duration_ns)
            entry = (stream.number, work, start_ns, stop_ns)
            if duration_ns:
                self._log.append(entry)
        return Busy(*entry)

    def end_step(self, stream: Stream) -> None:
        """Marks the end of a queued step; the host waits if it is too far ahead.

        It then waits until it may queue two more steps, if the device has at least two left to do: each wake-up costs the
        host more processor time than everything else here.
        """
        self._ends.append(stream.busy_until_ns)
        while self._ends and self._ends[0] <= self.clock.now():
            self._ends.popleft()
        if len(self._ends) > self._steps_ahead:
            for _ in range(len(self._ends) - max(2, self._steps_ahead - 1)):
                until_ns = self._ends.popleft()
            self.clock.sleep_until(until_ns)

    def synchronize(self) -> None:
        """Waits for all streams."""
        self.clock.sleep_until(max(stream.busy_until_ns for stream in self._streams))
        self._ends.clear()


class Stream:
    """A queue of work that is executed in order.

    Attributes:
        number: among the timeline's streams.
        busy_until_ns: the end of the work queued so far.
    """

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.busy_until_ns = 0
        self.number = timeline.register(self)

    def extend(self, duration_ns: int) -> tuple[int, int]:
        """Adds work and returns the times of its start and its end."""
        start_ns = max(self.timeline.clock.now(), self.busy_until_ns)
        self.busy_until_ns = start_ns + duration_ns
        return start_ns, self.busy_until_ns

    def wait_event(self, event: Event) -> None:
        """Later work starts after the event; the host does not wait."""
        self.busy_until_ns = max(self.busy_until_ns, event.reached_ns)

    def wait_stream(self, other: Stream) -> None:
        """Later work starts after the work that is now queued on the other stream."""
        self.busy_until_ns = max(self.busy_until_ns, other.busy_until_ns)

    def wait_until(self, at_ns: int) -> None:
        """Later work starts then, or later; the host does not wait."""
        self.busy_until_ns = max(self.busy_until_ns, at_ns)

    def query(self) -> bool:
        """Whether all queued work is done."""
        return self.busy_until_ns <= self.timeline.clock.now()

    def synchronize(self) -> None:
        """Waits for the queued work."""
        self.timeline.clock.sleep_until(self.busy_until_ns)


class Event:
    """The point at which a stream reaches the place where the event was recorded."""

    def __init__(self, timeline: Timeline, enable_timing: bool = False) -> None:
        self._timeline, self._enable_timing = timeline, enable_timing
        self._reached_ns: int | None = None

    @property
    def reached_ns(self) -> int:
        """The time of the event; it may be in the future.

        Raises:
            TimelineError: it was not recorded.
        """
        if self._reached_ns is None:
            raise TimelineError("the event was not recorded")
        return self._reached_ns

    def record(self, stream: Stream) -> None:
        """Records the event behind the work that is queued on the stream."""
        self._reached_ns = max(self._timeline.clock.now(), stream.busy_until_ns)

    def query(self) -> bool:
        """Whether the stream has reached the event."""
        return self.reached_ns <= self._timeline.clock.now()

    def synchronize(self) -> None:
        """Waits for the event."""
        self._timeline.clock.sleep_until(self.reached_ns)

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds from this event to ``end``.

        Raises:
            TimelineError: one of them was not recorded, is not reached yet, or was created without timing.
        """
        if not (self._enable_timing and end._enable_timing):
            raise TimelineError("both events need enable_timing=True")
        if not (self.query() and end.query()):
            raise TimelineError("the device has not reached both events yet")
        return (end.reached_ns - self.reached_ns) / NS_PER_MS

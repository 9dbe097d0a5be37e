"""What a sampler records in a worker: stacks and the time that passed in each, and how its file is read. Does not import torch.

A sampler's file has text of two kinds. `faulthandler` writes the stack at the moment of a signal. `loaderlab.lines.sampler` writes lines that
begin with `MARK`, such as the CPU time. The file of `loaderlab.lines.ticker` next to it has the time of each signal and says which threads were
computing. A stack gets the time since the previous signal: the sampler's own lines come late, because Python runs a handler only after a call of C
has ended, so that long calls would get the time of what follows them.
"""

from __future__ import annotations

import functools
import json
import linecache
import re
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from loaderlab.lines.ticker import RUNNING
from loaderlab.system.source_places import short_path

MARK = "@"
READY, BEGIN, TIMES, OWNER, PROBLEM = "ready", "begin", "times", "owner", "problem"  # the kinds of lines
HEADER = "Stack (most recent call first):"
OWN_FILE = str(Path(__file__).with_name("sampler.py"))  # its frames belong to the profiler
CALLABLES = ("__call__", "forward")  # functions by which objects are called; their classes are recorded
WORKER_LOOP = "_worker_loop"  # the function in which a worker does all its work: torch's, or the one of another package (torchdata)
_THREADS = ("_bootstrap", "_bootstrap_inner")  # the outermost function of a thread that is not the main one
_FRAME = re.compile(r'  File "(.*)", line (\d+) in (.*)')
_ESCAPED = re.compile(r"\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|\\U[0-9a-f]{8}")


class Frame(NamedTuple):
    """A frame of a stack.

    Attributes:
        file: as the interpreter names it, usually an absolute path.
        line: that was being executed, from 1.
        function: its name without its class.
        owner: the class of ``self`` of a function in `CALLABLES`, empty for others.
    """

    file: str
    line: int
    function: str
    owner: str = ""


@dataclass(frozen=True)
class Line:
    """A line of source code.

    Attributes:
        text: the line itself without its indentation; empty if the file cannot be read.
    """

    file: str
    line: int
    function: str
    text: str = ""

    @property
    def place(self) -> str:
        """``augment.py:88 elastic_deform``, relative to the working folder."""
        return f"{short_path(self.file)}:{self.line} {self.function}"


@dataclass(frozen=True)
class Sample:
    """Time that passed in one stack.

    Attributes:
        begin_ns, end_ns: on the clock `time.perf_counter_ns`, which all processes of a machine share.
        computing: share of it in which the main thread computed or waited for a core, 0 to 1; in the rest it slept or waited.
        others: mean number of the process's other threads that computed.
        stack: the outermost frame first.
    """

    begin_ns: int
    end_ns: int
    computing: float
    others: float
    stack: tuple[Frame, ...]

    @property
    def wall_ns(self) -> int:
        return self.end_ns - self.begin_ns


@dataclass(frozen=True)
class Recording:
    """The samples of one process, or of several that followed each other (a worker per epoch).

    Attributes:
        cpu_ns: CPU time of the main thread.
        cost_ns: time that the profiler itself took; it is part of the samples.
        problem: why the samples must not be used; empty if they may.
    """

    samples: tuple[Sample, ...] = ()
    cpu_ns: int = 0
    cost_ns: int = 0
    problem: str = ""

    @property
    def wall_ns(self) -> int:
        return sum(sample.wall_ns for sample in self.samples)

    def cost_pct(self, sampled_ns: int) -> float:
        """The share of the profile's time that the profiler took, percent.

        Args:
            sampled_ns: the time in which it sampled: `wall_ns`, unless it was stopped for a while.
        """
        return 100 * self.cost_ns / sampled_ns


def is_worker_loop(frame: Frame) -> bool:
    """Whether a frame is the outermost one of a worker's own work."""
    return frame.function == WORKER_LOOP


def line_of(frame: Frame) -> Line:
    """The line of a frame with its text, from the source file as it is now."""
    return Line(frame.file, frame.line, frame.function, source_text(frame.file, frame.line))


@functools.lru_cache(maxsize=8192)
def source_text(file: str, line: int) -> str:
    """A line of a source file without its indentation; empty if there is none."""
    return linecache.getline(file, line).strip()


def joined(recordings: Sequence[Recording]) -> Recording:
    """Several recordings as one; it has the first problem of any."""
    return Recording(
        tuple(sample for recording in recordings for sample in recording.samples),
        sum(recording.cpu_ns for recording in recordings),
        sum(recording.cost_ns for recording in recordings),
        next((recording.problem for recording in recordings if recording.problem), ""),
    )


def read(path: Path) -> Recording:
    """The recording in a sampler's file, up to its last complete entry. The process may still be writing it.

    Raises:
        OSError: it cannot be read.
    """
    reader = _Reader(_ticks(path.with_suffix(".ticks")))
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.endswith("\n"):
                reader.add(line[:-1])
    return Recording(tuple(reader.samples), reader.cpu_ns, reader.cost_ns, reader.problem)


class _Tick(NamedTuple):
    """What the ticker saw just before it asked for a stack."""

    time_ns: int
    computes: bool
    others: int


def _ticks(path: Path) -> deque[_Tick]:
    """The ticks of a process, in order; none if the ticker has not seen it."""
    if not path.exists():
        return deque()
    complete = path.read_text(encoding="utf-8").rpartition("\n")[0]
    entries = [line.split() for line in complete.splitlines()]
    return deque(_Tick(int(time), state == RUNNING, int(others)) for time, state, others in entries)


@dataclass
class _Reader:
    """Puts the lines of a file together to samples."""

    ticks: deque[_Tick]
    samples: list[Sample] = field(default_factory=list)
    cpu_ns: int = 0
    cost_ns: int = 0
    problem: str = ""
    owners: list[_Owner] = field(default_factory=list)
    stacks: list[list[Frame]] = field(default_factory=list)  # since the last times, each with the innermost frame first
    cpu_before: int = 0
    end_ns: int = 0  # of the last sample

    def add(self, line: str) -> None:
        if line.startswith(MARK):
            with suppress(ValueError):  # a full disk has cut it off
                self._entry(*json.loads(line[len(MARK) :]))
        elif line == HEADER:
            self.stacks.append([])
        elif (frame := _FRAME.fullmatch(line)) and self.stacks:
            file, number, function = frame.groups()
            self.stacks[-1].append(Frame(_unescaped(file), int(number), _unescaped(function)))

    def _entry(self, kind: str, *values: Any) -> None:
        match kind:
            case "begin":
                self.cpu_before, self.stacks = values[1], []
                ticks = self._ticks_until(values[0])
                self.end_ns = ticks[-1].time_ns if ticks else values[0]
            case "times":
                wall, cpu, cost, stack_cost, owners = values
                self.cost_ns += cost + stack_cost * len(self.stacks)
                self._share_out(wall, cpu, owners)
            case "owner":
                self.owners.append(_Owner(*values))
            case "problem":
                self.problem = values[0]

    def _share_out(self, wall_ns: int, cpu_ns: int, owners: Sequence[int]) -> None:
        """Gives each stack since the last entry the time until its tick. If the numbers differ, because the signals of several ticks arrived as one
        while the process had no core, they get equal parts; without ticks, of the time until the entry."""
        stacks, self.stacks = [stack for stack in map(_of_main_thread, self.stacks) if stack], []
        if not stacks:
            return  # its time is added to the next entry's
        self.cpu_ns, self.cpu_before = self.cpu_ns + cpu_ns - self.cpu_before, cpu_ns
        ticks, number = self._ticks_until(wall_ns), len(stacks)
        matched = len(ticks) == number
        begin, whole = self.end_ns, (ticks[-1].time_ns if ticks else wall_ns) - self.end_ns
        for index, stack in enumerate(stacks):
            seen = [ticks[index]] if matched else ticks
            end = ticks[index].time_ns if matched else begin + whole * (index + 1) // number
            self.samples.append(
                Sample(
                    self.end_ns,
                    end,
                    fmean(tick.computes for tick in seen) if seen else 1.0,
                    fmean(tick.others for tick in seen) if seen else 0.0,
                    tuple(self.named(stack[::-1], owners)),
                )
            )
            self.end_ns = end

    def _ticks_until(self, time_ns: int) -> list[_Tick]:
        ticks = []
        while self.ticks and self.ticks[0].time_ns <= time_ns:
            ticks.append(self.ticks.popleft())
        return ticks

    def named(self, stack: Sequence[Frame], owners: Sequence[int]) -> Iterator[Frame]:
        """The frames with the classes of their objects: those that the sampler saw in this stack, otherwise the only class that it ever saw in
        that function."""
        seen = [self.owners[number] for number in owners]
        for frame in stack:
            if frame.function not in CALLABLES:
                yield frame
                continue
            if seen and seen[0].has(frame):
                yield Frame(*frame[:3], seen.pop(0).name)
                continue
            names = {owner.name: None for owner in self.owners if owner.has(frame)}
            definer = next((owner.definer for owner in self.owners if owner.has(frame)), "")
            yield Frame(*frame[:3], next(iter(names)) if len(names) == 1 else definer)


class _Owner(NamedTuple):
    """A class whose objects are called by a function, given by its first and last line; ``definer``: the class that defines it."""

    file: str
    first: int
    last: int
    name: str
    definer: str

    def has(self, frame: Frame) -> bool:
        return self.file == frame.file and self.first <= frame.line <= self.last


def _of_main_thread(stack: list[Frame]) -> list[Frame]:
    """Without the frames of the sampler, in which a signal may arrive too; empty if it is another thread's. A worker that was forked in such a
    thread has its frames."""
    if not stack or (stack[-1].function in _THREADS and not any(map(is_worker_loop, stack))):
        return []
    inner = next((index for index, frame in enumerate(stack) if frame.file != OWN_FILE), len(stack))
    return stack[inner:]


def _unescaped(text: str) -> str:
    """A name as it was before `faulthandler` escaped what is not ASCII."""
    return _ESCAPED.sub(lambda match: match.group().encode().decode("unicode_escape"), text)

"""What a sampler records in a worker: stacks and the time that passed in each, and how its file is read. Does not import torch.

A file has text of two kinds. `faulthandler` writes the stack at the moment of a signal. `loaderlab.lines.sampler` writes lines that begin
with `MARK`: the times since its previous line, which belong to the stacks in between in equal parts.
"""

from __future__ import annotations

import functools
import json
import linecache
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from loaderlab.system.source_places import short_path

MARK = "@"
READY, BEGIN, TIMES, OWNER, PROBLEM, END = "ready", "begin", "times", "owner", "problem", "end"  # the kinds of lines
HEADER = "Stack (most recent call first):"
OWN_FILE = str(Path(__file__).with_name("sampler.py"))  # its frames belong to the profiler
CALLABLES = ("__call__", "forward")  # functions by which objects are called; their classes are recorded
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
        cpu_ns: CPU time of the main thread in it.
        others_ns: CPU time of the process's other threads in it; may exceed its length. Both are exact only in total: the part that belongs to
            this stack is known if the samples before and after it have the same one.
        stack: the outermost frame first.
    """

    begin_ns: int
    end_ns: int
    cpu_ns: int
    others_ns: int
    stack: tuple[Frame, ...]

    @property
    def wall_ns(self) -> int:
        return self.end_ns - self.begin_ns


@dataclass(frozen=True)
class CpuSample:
    """CPU time that the main thread spent in a stack."""

    cpu_ns: int
    stack: tuple[Frame, ...]


@dataclass(frozen=True)
class Recording:
    """The samples of one process, or of several that followed each other (a worker per epoch).

    Attributes:
        cpu: where the main thread computed; other threads' stacks are left out.
        cost_ns: time that the profiler itself took; it is part of the samples.
        problem: why the samples must not be used; empty if they may.
    """

    samples: tuple[Sample, ...] = ()
    cpu: tuple[CpuSample, ...] = ()
    cost_ns: int = 0
    problem: str = ""

    @property
    def wall_ns(self) -> int:
        return sum(sample.wall_ns for sample in self.samples)


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
        tuple(sample for recording in recordings for sample in recording.cpu),
        sum(recording.cost_ns for recording in recordings),
        next((recording.problem for recording in recordings if recording.problem), ""),
    )


def read(path: Path) -> Recording:
    """The recording in a sampler's file, up to its last complete entry. The process may still be writing it.

    Raises:
        OSError: it cannot be read.
    """
    reader, computing = _Reader(), _Reader()
    for source, into in ((path, reader), (cpu_file(path), computing)):
        if source.exists():
            with source.open(encoding="utf-8", errors="replace") as file:
                for line in file:
                    if line.endswith("\n"):
                        into.add(line[:-1])
    return Recording(tuple(reader.samples), tuple(_computing(reader, computing.stacks)), reader.cost(len(computing.stacks)), reader.problem)


def cpu_file(path: Path) -> Path:
    """The file with the stacks of the CPU timer, next to a sampler's main file."""
    return path.with_suffix(".cpu")


def _computing(reader: _Reader, stacks: Sequence[list[Frame]]) -> Iterator[CpuSample]:
    """The stacks of the CPU timer that are of the main thread. They share its CPU time, which is exact in total."""
    own = [named for stack in stacks if (named := _without_profiler(stack)) and stack[-1].function not in _THREADS]
    total_ns = sum(sample.cpu_ns for sample in reader.samples)
    for stack in own:
        yield CpuSample(total_ns // len(own), tuple(reader.named(stack[::-1])))


def is_ready(path: Path) -> bool:
    """Whether the process of a sampler's file may be asked to start."""
    return _has(path, READY)


def has_ended(path: Path) -> bool:
    """Whether the sampling has ended, or could not begin."""
    return _has(path, END) or _has(path, PROBLEM)


def _has(path: Path, kind: str) -> bool:
    return f'{MARK}["{kind}"'.encode() in path.read_bytes()


@dataclass
class _Reader:
    """Puts the lines of a file together to samples."""

    samples: list[Sample] = field(default_factory=list)
    cost_ns: int = 0
    stack_cost_ns: int = 0
    problem: str = ""
    owners: list[_Owner] = field(default_factory=list)
    stacks: list[list[Frame]] = field(default_factory=list)  # since the last times, each with the innermost frame first
    last: tuple[int, int, int] = (0, 0, 0)

    def add(self, line: str) -> None:
        if line.startswith(MARK):
            self._entry(*json.loads(line[len(MARK) :]))
        elif line == HEADER:
            self.stacks.append([])
        elif (frame := _FRAME.fullmatch(line)) and self.stacks:
            file, number, function = frame.groups()
            self.stacks[-1].append(Frame(_unescaped(file), int(number), _unescaped(function)))

    def _entry(self, kind: str, *values: Any) -> None:
        match kind:
            case "begin":
                self.last, self.stacks = (values[0], values[1], values[2]), []
            case "times":
                wall, cpu, process, cost, stack_cost, owners = values
                self.cost_ns += cost + stack_cost * len(self.stacks)
                self.stack_cost_ns = stack_cost
                self._share_out((wall, cpu, process), owners)
            case "owner":
                self.owners.append(_Owner(*values))
            case "problem":
                self.problem = values[0]

    def cost(self, num_cpu_samples: int) -> int:
        """The time that the profiler took, ns."""
        return self.cost_ns + self.stack_cost_ns * num_cpu_samples

    def _share_out(self, now: tuple[int, int, int], owners: Sequence[int]) -> None:
        """Gives the stacks since the last entry equal parts of the time since then."""
        stacks, self.stacks = [stack for stack in map(_without_profiler, self.stacks) if stack], []
        if not stacks:
            return  # its time is added to the next entry's
        before, self.last = self.last, now
        wall, cpu, process = (after - start for after, start in zip(now, before, strict=True))
        number = len(stacks)
        for index, stack in enumerate(stacks):
            self.samples.append(
                Sample(
                    before[0] + wall * index // number,
                    before[0] + wall * (index + 1) // number,
                    cpu // number,
                    max(0, process - cpu) // number,
                    tuple(self.named(stack[::-1], owners)),
                )
            )

    def named(self, stack: Sequence[Frame], owners: Sequence[int] = ()) -> Iterator[Frame]:
        """The frames with the classes of their objects: those that the sampler saw in this stack, otherwise the only class that it ever saw in
        that function."""
        seen = [self.owners[number] for number in owners]
        for frame in stack:
            if frame.function not in CALLABLES:
                yield frame
                continue
            if seen and seen[0].has(frame):
                yield frame._replace(owner=seen.pop(0).name)
                continue
            names = {owner.name: None for owner in self.owners if owner.has(frame)}
            definer = next((owner.definer for owner in self.owners if owner.has(frame)), "")
            yield frame._replace(owner=next(iter(names)) if len(names) == 1 else definer)


class _Owner(NamedTuple):
    """A class whose objects are called by a function, given by its first and last line; ``definer``: the class that defines it."""

    file: str
    first: int
    last: int
    name: str
    definer: str

    def has(self, frame: Frame) -> bool:
        return self.file == frame.file and self.first <= frame.line <= self.last


def _without_profiler(stack: list[Frame]) -> list[Frame]:
    """Without the frames of the sampler, in which a signal may arrive too."""
    inner = next((index for index, frame in enumerate(stack) if frame.file != OWN_FILE), len(stack))
    return stack[inner:]


def _unescaped(text: str) -> str:
    """A name as it was before `faulthandler` escaped what is not ASCII."""
    return _ESCAPED.sub(lambda match: match.group().encode().decode("unicode_escape"), text)

"""Cuts of real GPU traces: each file in ``real/`` has the times of a few steps, and a trace is built from them.

A file has these lines, all times in whole µs:

- ``stream N``: the stream of the step's kernels.
- ``step LOAD BATCH TRANSFER FORWARD BACKWARD OPTIMIZER``: host times. The loader is called at LOAD and returns at BATCH; the
  others are the moments at which that phase has been queued. ``end`` is the last step's end, the next call of the loader.
- ``k7 AFTER LENGTH LAG``: kernels (k), copies (c) or memsets (s) of stream 7. AFTER is the time since the start of the line
  before; LAG is the time from their launch on the host to their start, below 0 if several are joined and the last was
  launched later. Work of one stream is joined only if it was launched in the same phase.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "real"
CATEGORIES = {"k": "kernel", "c": "gpu_memcpy", "s": "gpu_memset"}


@dataclass(frozen=True)
class Work:
    """Work of one stream: its kind (k, c or s), and times in µs."""

    kind: str
    stream: int
    launch: int
    start: int
    end: int


@dataclass(frozen=True)
class Cut:
    """A few steps of a real trace.

    Attributes:
        stream: the stream of the step's kernels.
        steps: host times of each step, seven in order: loader called, batch received, transfer, forward, backward and
            optimizer queued, step ended.
    """

    name: str
    stream: int
    steps: tuple[tuple[int, ...], ...]
    work: tuple[Work, ...]

    @property
    def waits(self) -> list[tuple[int, int]]:
        return [(step[0], step[1]) for step in self.steps]

    def events(self) -> list[dict[str, Any]]:
        """The trace as PyTorch's profiler writes it."""
        events = [
            event
            for number, step in enumerate(self.steps)
            for event in (
                self._range(f"ProfilerStep#{number}", step[0], step[6]),
                self._range("enumerate(DataLoader)#_MultiProcessingDataLoaderIter.__next__", step[0], step[1]),
            )
        ]
        for one in self.work:
            place = {"pid": 0, "tid": one.stream, "args": {"device": 0, "stream": one.stream}}
            times = {"ts": one.start, "dur": one.end - one.start}
            events.append({"ph": "X", "cat": CATEGORIES[one.kind], "name": "work", **times, **place})
        return events

    def _range(self, name: str, start: int, end: int) -> dict[str, Any]:
        times = {"ts": start, "dur": end - start}
        return {"ph": "X", "cat": "user_annotation", "name": name, "pid": 1, "tid": 1, "args": {}, **times}


def read_cut(path: Path) -> Cut:
    lines = [line.split() for line in path.read_text().splitlines() if not line.startswith("#")]
    times = [(line[0], tuple(map(int, line[1:]))) for line in lines]
    (stream,) = next(values for word, values in times if word == "stream")
    (end,) = next(values for word, values in times if word == "end")
    begun = [values for word, values in times if word == "step"]
    ends = [*(step[0] for step in begun[1:]), end]
    work, start = [], 0
    for word, values in times:
        if word[0] in CATEGORIES and word[1:].isdigit():
            after, length, lag = values
            start += after
            work.append(Work(word[0], int(word[1:]), start - lag, start, start + length))
    steps = tuple((*step, last) for step, last in zip(begun, ends, strict=True))
    return Cut(path.stem, stream, steps, tuple(work))


CUTS = [read_cut(path) for path in sorted(FOLDER.glob("*.txt"))]

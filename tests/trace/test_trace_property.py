"""Shares of random, unusual traces, compared with a sum over elementary intervals that shares no code with loaderlab."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loaderlab.config import TraceConfig
from loaderlab.trace.analysis import Reading, Share, analyse
from loaderlab.trace.collect import collect

Event = dict[str, Any]
GRID = 24  # units of time of a trace, before scaling
CLOCKS = [  # the start and the length of one unit in µs; each time is exact in 64 bits
    (0, 1),
    (0.0, 2.0**-10),
    (0.0, 2.0**30),
    (1_700_000_000_000_000.0, 0.25),  # since 1970
    (1_700_000_000_000_000_000, 1000),  # the same in ns, as whole numbers
    (-(2.0**40), 2.0**-10),
    (4562149577595.0, 512.0),
]


@dataclass(frozen=True)
class Span:
    """An event: its start and length in units of the grid, and its device or thread (``where``) and stream."""

    kind: str
    start: int
    length: int
    where: int = 0
    stream: int = 0

    @property
    def end(self) -> int:
        return self.start + self.length


def spans(kind: st.SearchStrategy[str], where: int, streams: int, size: int) -> st.SearchStrategy[list[Span]]:
    one = st.builds(
        Span, kind, st.integers(0, GRID), st.integers(-1, 14), st.integers(0, where), st.integers(0, streams)
    )
    return st.lists(one, max_size=size)


WORK = spans(st.sampled_from(["kernel", "kernel", "kernel", "gpu_memcpy", "gpu_memset"]), where=1, streams=1, size=8)
WAITS = spans(st.just("wait"), where=1, streams=0, size=4)


@st.composite
def step_spans(draw: st.DrawFn) -> list[Span]:
    """Up to five steps, with or without gaps between them, some of length 0."""
    edges = sorted(draw(st.lists(st.integers(0, GRID), min_size=2, max_size=10)))
    pairs = [(start, end) for start, end in zip(edges[::2], edges[1::2], strict=False)]
    if draw(st.booleans()):
        pairs = list(pairwise(edges))[:5]
    return [Span("step", start, end - start) for start, end in sorted(set(pairs))]


def as_event(span: Span, number: int, origin: float, unit: float) -> Event:
    names = {"step": f"ProfilerStep#{number}", "wait": "enumerate(DataLoader)#x"}
    place = {"pid": 7, "tid": 7 + span.where} if span.kind in names else {"pid": span.where, "tid": span.stream}
    return {
        "ph": "X",
        "cat": "user_annotation" if span.kind in names else span.kind,
        "name": names.get(span.kind, "work"),
        "ts": origin + span.start * unit,
        "dur": span.length * unit,
        "args": {},
        **place,
    }


# ---- the expected values -------------------------------------------------------------------------------------------


def following(kernel: Span, work: list[Span]) -> Span | None:
    """The next kernel of the same stream."""
    later = [
        one
        for one in work
        if one.kind == "kernel" and (one.where, one.stream) == (kernel.where, kernel.stream)
        if one.length > 0 and one.start > kernel.start
    ]
    return min(later, key=lambda one: (one.start, one.end), default=None)


def cut(span: Span, work: list[Span]) -> Span:
    """The span; a kernel ends where the next one of its stream starts."""
    after = following(span, work) if span.kind == "kernel" else None
    if after is None or after.start >= span.end:
        return span
    return Span(span.kind, span.start, after.start - span.start, span.where, span.stream)


def covered(steps: list[Span], inside: list[list[Span]], outside: list[Span]) -> int:
    """Number of units of the steps that lie in a span of each list `inside`, and in none of `outside`."""

    def lies_in(unit: int, some: list[Span]) -> bool:
        return any(span.start <= unit < span.end for span in some)

    units = [unit for step in steps for unit in range(step.start, step.end)]
    return sum(all(lies_in(unit, some) for some in inside) and not lies_in(unit, outside) for unit in units)


def expected_share(steps: list[Span], work: list[Span], waits: list[Span] | None) -> list[float | None]:
    """Wait, idle, copying and starved share of these steps, percent; the mean of the devices that work in `steps`."""
    total = sum(step.length for step in steps)
    if not total:
        return [None] * 4
    percent = [None if waits is None else 100 * covered(steps, [waits], []) / total]
    devices = sorted({span.where for span in work})
    each = []
    for device in devices:
        own = [span for span in work if span.where == device]
        compute = [span for span in own if span.kind != "gpu_memcpy"]
        starved = None if waits is None else covered(steps, [waits], own)
        each.append((covered(steps, [], own), covered(steps, [own], compute), starved))
    for values in zip(*each, strict=True) if each else [(None,)] * 3:
        known = [value for value in values if value is not None]
        percent.append(100 * sum(known) / len(known) / total if known else None)
    return percent


def counts(wait: Span, steps: list[Span], waits: list[Span]) -> bool:
    """Whether a wait range lies in a step, even with length 0, unless it is the edge of a longer one."""
    if any(one.start <= wait.start <= wait.end <= one.end and one.length > wait.length for one in waits):
        return False
    if wait.length == 0:
        return any(step.start <= wait.start < step.end for step in steps)
    return any(max(step.start, wait.start) < min(step.end, wait.end) for step in steps)


def check(share: Share, expected: list[float | None], copy_pct: float | None = None) -> None:
    wait, idle, copying, starved = expected
    for actual, value in [(share.wait_pct, wait), (share.idle_pct, idle), (share.starved_pct, starved)]:
        assert actual == (None if value is None else pytest.approx(value, abs=1e-6))
    if copy_pct is not None:
        assert copy_pct == pytest.approx(copying, abs=1e-6)


def read(events: list[Event]) -> Reading:
    return analyse(collect(events, "auto"), TraceConfig(trace="trace.json"))


@given(step_spans(), WORK, WAITS, st.sampled_from(CLOCKS), st.randoms(use_true_random=False))
def test_property_shares_equal_a_sum_over_elementary_intervals(
    steps: list[Span], work: list[Span], waits: list[Span], clock: tuple[float, float], order: Any
) -> None:
    events = [as_event(span, number, *clock) for number, span in enumerate([*steps, *work, *waits])]
    order.shuffle(events)
    reading = read(events)
    negative = sum(span.length < 0 for span in [*work, *waits])
    work, waits = [span for span in work if span.length >= 0], [span for span in waits if span.length >= 0]
    own = [wait for wait in waits if wait.where == 0]
    own = own if any(counts(wait, steps, own) for wait in own) else []
    ran = [cut(span, work) for span in work]
    known = {span.where for span in ran if any(covered([step], [[span]], []) for step in steps)}
    ran = [span for span in ran if span.where in known]
    check(reading.overall, expected_share(steps, ran, own or None), reading.copy_pct)
    for step, (number, share) in zip(steps, reading.steps, strict=bool(reading.steps)):
        assert step == steps[number]
        check(share, expected_share([step], ran, own or None))
    if not reading.steps:
        assert sum(step.length for step in steps) == 0
        return
    left_out = [note for note in reading.notes if note.startswith("events with a duration below 0, left out: ")]
    assert [int(note.split()[-1]) for note in left_out] == [negative] * (negative > 0)
    outlasting = sum(
        (after := following(span, work)) is not None and (span.end - cut(after, work).end) * clock[1] > 2
        for span in work
        if span.kind == "kernel" and span.length > 0 and span.where in known
    )
    said = [note for note in reading.notes if "cut where the next kernel starts" in note]
    assert [int(note.split()[0]) for note in said] == [outlasting] * (outlasting > 0)

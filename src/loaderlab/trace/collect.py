"""Collects the events of a trace that matter for starvation: profiler steps, device work, and each thread's waits."""

from __future__ import annotations

import fnmatch
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from loaderlab.config import AUTO, UserError
from loaderlab.trace.intervals import Growing
from loaderlab.trace.streams import Stream

KERNEL, MEMSET, COPY, RANGE, HOST, OTHER = "kernel", "memset", "copy", "range", "host", "other"
KINDS = {  # category in lower case to kind; the short names are from profilers before PyTorch 1.11
    "kernel": KERNEL,
    "gpu_memset": MEMSET,
    "memset": MEMSET,
    "gpu_memcpy": COPY,
    "memcpy": COPY,
    "user_annotation": RANGE,
    "cpu_op": RANGE,
    "operator": RANGE,
    "python": RANGE,
    "python_function": RANGE,
    **dict.fromkeys(  # the host side of a GPU: not device work
        (
            "cuda_runtime",
            "cuda_driver",
            "cuda_sync",
            "cuda_event",
            "cuda_profiler_range",
            "runtime",
            "gpu_user_annotation",
            "ac2g",
            "fwdbwd",
            "overhead",
            "trace",
            "cpu_instant_event",
        ),
        HOST,
    ),
}
# ROCm's profiler writes some copies as kernels (pytorch/kineto#1295); its runtime also copies with a kernel of its own
COPY_KERNEL = re.compile(
    r"memcpy(?:[hdp]to[hdp])?\b.*|copy(?:host|device|peer)to(?:host|device|peer)\w*|memory_copy_\w+|__amd_rocclr_copy\w+.*",
    re.IGNORECASE,
)
GRAPH_LAUNCH = re.compile(r"(?:cuda|cu|hip)GraphLaunch\w*")
STEP = re.compile(r"ProfilerStep#([0-9]{1,18})")
DEFAULT_WAIT = re.compile(r"enumerate\(DataLoader\)#.*|loaderlab/wait")
NUMBERS = frozenset({int, float})
MOST_US = 2.0**63  # largest time: no profiler's counter reaches it, and sums of larger ones may overflow
LONGEST_SHOWN = 80  # characters of a value in a message
NAMES = 100_000  # limit of different names that are stored

Thread = tuple[str, str]  # pid and tid


@dataclass(frozen=True)
class Step:
    """One profiler step, on the thread that calls ``prof.step()``; times in µs since the first event."""

    number: int
    thread: Thread
    start: float
    end: float


@dataclass
class TraceEvents:
    """The collected events of a trace; times in µs since the first event.

    Attributes:
        kernels: by device and stream; compute: memsets, and kernels without a stream, by device; copies: by device.
        copy_kernels: number of kernels that count as copies, by name.
        waits, wait_names: ranges that match the pattern, and their number by name; by thread.
        user_ranges: number of ranges that the program marks itself, by thread and name; plain_ranges: the same for
            ranges that profilers before PyTorch 1.13 did not distinguish from operators.
        others: number of events by unknown category.
        graph_launches: number of CUDA graphs that the host launched.
        negative: number of events that are left out, since their duration is below 0.
    """

    steps: list[Step] = field(default_factory=list)
    kernels: dict[str, dict[Thread, Stream]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(Stream)))
    compute: dict[str, Growing] = field(default_factory=lambda: defaultdict(Growing))
    copies: dict[str, Growing] = field(default_factory=lambda: defaultdict(Growing))
    waits: dict[Thread, Growing] = field(default_factory=lambda: defaultdict(Growing))
    wait_names: dict[Thread, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    user_ranges: dict[Thread, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    plain_ranges: dict[Thread, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    copy_kernels: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    graph_launches: int = 0
    negative: int = 0


def wait_pattern(wait: str) -> re.Pattern[str]:
    """The pattern for the full name of a wait range: a part of the name in any case, or a glob if it has * or ?.

    >>> bool(wait_pattern("next_b").fullmatch("my.Next_Batch")), bool(wait_pattern("next*").fullmatch("my.next"))
    (True, False)
    """
    if wait == AUTO:
        return DEFAULT_WAIT
    if "*" in wait or "?" in wait:
        return re.compile(fnmatch.translate(wait.replace("[", "[[]")), re.IGNORECASE)
    return re.compile(f".*{re.escape(wait)}.*", re.IGNORECASE | re.DOTALL)


def collect(events: Iterable[dict[str, Any]], wait: str) -> TraceEvents:
    """The events that matter, sorted by kind.

    Raises:
        UserError: such an event has no valid time.
    """
    trace, roles, base = TraceEvents(), _Roles(wait_pattern(wait)), None
    for kind, event in _relevant(events, trace.others):
        if kind == HOST:
            trace.graph_launches += 1
            continue
        role = roles.of(str(event.get("name")), event["cat"]) if kind == RANGE else None
        if kind == RANGE and role is None:
            continue  # most operators
        start, length = _number(event, "ts"), _number(event, "dur")
        base = start if base is None else base
        start -= base  # first: a float of a time since 1970 has too few digits for short durations
        if length < 0:
            trace.negative += 1
        elif role is not None:
            _add_range(trace, role, event, start, start + length)
        else:
            _add_work(trace, kind, event, start, start + length)
    return trace


def _add_work(trace: TraceEvents, kind: str, event: dict[str, Any], start: float, end: float) -> None:
    args, name, tid = event.get("args"), str(event.get("name")), event.get("tid")
    device = str(args["device"] if isinstance(args, dict) and "device" in args else event.get("pid"))
    if kind == KERNEL and COPY_KERNEL.fullmatch(name):
        kind = COPY
        trace.copy_kernels[name] += 1
    if kind == COPY:
        trace.copies[device].add(start, end)
    elif kind == KERNEL and tid is not None:
        trace.kernels[device][str(event.get("pid")), str(tid)].add(start, end)
    else:
        trace.compute[device].add(start, end)


def _add_range(trace: TraceEvents, role: _Role, event: dict[str, Any], start: float, end: float) -> None:
    thread, name = (str(event.get("pid")), str(event.get("tid"))), str(event.get("name"))
    if role.step is not None:
        trace.steps.append(Step(role.step, thread, start, end))
        return
    if role.is_wait:
        trace.waits[thread].add(start, end)
        trace.wait_names[thread][name] += 1
    names = (trace.user_ranges if role.is_users else trace.plain_ranges)[thread]
    if len(names) < NAMES:
        names[name] += 1


def _relevant(events: Iterable[dict[str, Any]], others: Counter[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The events with a duration and a relevant category, and of the host's calls those that launch a CUDA graph; also counts
    the unknown categories in ``others``."""
    kinds: dict[str, str] = {}
    for event in events:
        if event.get("ph") != "X":
            continue
        category = event.get("cat")
        if not isinstance(category, str):
            others["no category"] += 1
            continue
        if category not in kinds:
            kinds[category] = KINDS.get(category.lower(), OTHER)
        kind = kinds[category]
        if kind == OTHER:
            others[category] += 1
        elif kind != HOST or GRAPH_LAUNCH.fullmatch(str(event.get("name"))):
            yield kind, event


@dataclass(frozen=True)
class _Role:
    """The role of a range by its name and category: the number of a step, a wait, marked by the user's program."""

    step: int | None
    is_wait: bool
    is_users: bool


class _Roles:
    """The role of a range, or None. Results are cached: many events share few names."""

    def __init__(self, wait: re.Pattern[str]) -> None:
        self._wait = wait
        self._known: dict[tuple[str, str], _Role | None] = {}

    def of(self, name: str, category: str) -> _Role | None:
        key = name, category
        if key in self._known:
            return self._known[key]
        step = STEP.fullmatch(name)
        is_wait, is_users = self._wait.fullmatch(name) is not None, category == "user_annotation"
        is_operator = "::" in name or category.startswith("python_")
        role = None
        if step or is_wait or is_users or not is_operator:
            role = _Role(int(step[1]) if step else None, is_wait, is_users)
        if len(self._known) < NAMES:
            self._known[key] = role
        return role


def _number(event: dict[str, Any], key: str) -> float:
    value = event.get(key)
    if type(value) in NUMBERS and -MOST_US < value < MOST_US:  # type: ignore[operator]
        return value  # type: ignore[return-value]
    raise UserError(
        f"the trace's event {_short(event.get('name'))} has {key}={_short(value)}: must be a number of microseconds below "
        f"{MOST_US:.2g}, as PyTorch's profiler writes it"
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}… ({len(text):,} characters)"

"""What of a trace's events tells of starvation: the profiler's steps, the device's work, the waits of every thread."""

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
KINDS = {  # by category, in lower case; the short names are those of profilers before PyTorch 1.11
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
    **dict.fromkeys(  # of a GPU's host side: no device work
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
# ROCm writes some copies as kernels (pytorch/kineto#1295), and copies by a kernel of its runtime's own
COPY_KERNEL = re.compile(
    r"memcpy(?:[hdp]to[hdp])?\b.*|copy(?:host|device|peer)to(?:host|device|peer)\w*|memory_copy_\w+|__amd_rocclr_copy\w+.*",
    re.IGNORECASE,
)
STEP = re.compile(r"ProfilerStep#([0-9]{1,18})")
DEFAULT_WAIT = re.compile(r"enumerate\(DataLoader\)#.*|loaderlab/wait")
NUMBERS = frozenset({int, float})
MOST_US = 2.0**63  # of a time: beyond it sums may overflow, and no profiler's counter reaches it
LONGEST_SHOWN = 80  # characters of a value in a message
NAMES = 100_000  # different names that are remembered

Thread = tuple[str, str]  # pid and tid


@dataclass(frozen=True)
class Step:
    """One step of the profiler, on the thread that calls ``prof.step()``; times in µs since the first event."""

    number: int
    thread: Thread
    start: float
    end: float


@dataclass
class TraceEvents:
    """What a trace holds; times in µs since the first event.

    Attributes:
        kernels: of each device, by stream; compute: its memsets, and kernels that name no stream; copies: its copies.
        copy_kernels: how many kernels of each name were taken for copies.
        waits, wait_names: ranges that match the pattern, by thread, and how many of each name.
        user_ranges: how many ranges of each name the program itself marks, by thread; plain_ranges: the same of ranges
            that profilers before PyTorch 1.13 did not tell from operators.
        others: how many events there are of each category that is not known here.
        negative: events of no use, since their duration is below 0.
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
    negative: int = 0


def wait_pattern(wait: str) -> re.Pattern[str]:
    """What the whole name of a wait range matches: a part of it in any case, or a glob where it has * or ?.

    >>> bool(wait_pattern("next_b").fullmatch("my.Next_Batch")), bool(wait_pattern("next*").fullmatch("my.next"))
    (True, False)
    """
    if wait == AUTO:
        return DEFAULT_WAIT
    if "*" in wait or "?" in wait:
        return re.compile(fnmatch.translate(wait.replace("[", "[[]")), re.IGNORECASE)
    return re.compile(f".*{re.escape(wait)}.*", re.IGNORECASE | re.DOTALL)


def collect(events: Iterable[dict[str, Any]], wait: str) -> TraceEvents:
    """What the events tell.

    Raises:
        UserError: an event that counts has no number for its time.
    """
    found, roles, base = TraceEvents(), _Roles(wait_pattern(wait)), None
    for kind, event in _of_use(events, found.others):
        role = roles.of(str(event.get("name")), event["cat"]) if kind == RANGE else None
        if kind == RANGE and role is None:
            continue  # most operators
        start, length = _number(event, "ts"), _number(event, "dur")
        base = start if base is None else base
        start -= base  # early: a clock that began in 1970 leaves few digits for what is short
        if length < 0:
            found.negative += 1
        elif role is not None:
            _add_range(found, role, event, start, start + length)
        else:
            _add_work(found, kind, event, start, start + length)
    return found


def _add_work(found: TraceEvents, kind: str, event: dict[str, Any], start: float, end: float) -> None:
    args, name, tid = event.get("args"), str(event.get("name")), event.get("tid")
    device = str(args["device"] if isinstance(args, dict) and "device" in args else event.get("pid"))
    if kind == KERNEL and COPY_KERNEL.fullmatch(name):
        kind = COPY
        found.copy_kernels[name] += 1
    if kind == COPY:
        found.copies[device].add(start, end)
    elif kind == KERNEL and tid is not None:
        found.kernels[device][str(event.get("pid")), str(tid)].add(start, end)
    else:
        found.compute[device].add(start, end)


def _add_range(found: TraceEvents, role: _Role, event: dict[str, Any], start: float, end: float) -> None:
    thread, name = (str(event.get("pid")), str(event.get("tid"))), str(event.get("name"))
    if role.step is not None:
        found.steps.append(Step(role.step, thread, start, end))
        return
    if role.is_wait:
        found.waits[thread].add(start, end)
        found.wait_names[thread][name] += 1
    names = (found.user_ranges if role.is_users else found.plain_ranges)[thread]
    if len(names) < NAMES:
        names[name] += 1


def _of_use(events: Iterable[dict[str, Any]], others: Counter[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The events with a duration whose category counts; those of a category that is not known are counted."""
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
        elif kind != HOST:
            yield kind, event


@dataclass(frozen=True)
class _Role:
    """What a range is by its name and category: a step of this number, a wait, marked by the program itself."""

    step: int | None
    is_wait: bool
    is_users: bool


class _Roles:
    """The role of each range, None where it has none. Few names make many events: each is looked at once."""

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

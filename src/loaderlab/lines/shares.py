"""How a worker spends its time, by stage and by line, and how much of it the training waits for. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from loaderlab.lines.gain import Gain, gain_without
from loaderlab.lines.stacks import Line, Recording, Sample
from loaderlab.lines.stages import WAITING, Place, Stage, place_of

COMPUTING, SLEEPING, OTHER_THREADS = (
    "computing",
    "waiting: sleep, lock or file",
    "waiting for other threads that compute",
)
FREE_BELOW_PCT = 2.0  # of the step time in which the training waits: below, the loader's time is free
TABLES = ("stages", "lines", "functions")  # of `SlowLines`
FEW = 3.0  # samples: a part with fewer is not called free because none of them was within a wait
HANDLER_NS = 1_000_000  # from a sample to the handler that notes the time, at most
WITHOUT_PAUSE_PCT = 95.0  # of the profile: a worker that is busy longer limits the training all the time
LEAST_EXPOSED = 15  # samples within waits: with fewer, the shares of a worker that pauses are of all its work
LEAST_BUSY_S = 0.1  # of a profile: below, it says nothing

Waits = Sequence[tuple[int, int]]  # begin and end of each, perf_counter_ns, in order


@dataclass(frozen=True)
class Part:
    """A stage or a line of the loader.

    Attributes:
        line: of a stage its slowest one.
        wall_pct: share of the worker's busy time, percent.
        exposed_pct: share of the worker's busy time within the trainer's waits, percent; 0 if there is none.
        cpu_pct: share of its own time in which the worker's main thread computed or waited for a core, percent.
        others_pct: CPU time of the worker's other threads in it, percent of its own time; may exceed 100.
        spends: how it spends its time: `COMPUTING`, `SLEEPING` or `OTHER_THREADS`.
        is_free: the training does not wait for it.
        counts_all: its share is of all busy time. The worker works all the time: then each part delays every batch, but the waits are always
            at the end of a batch, so the exposed shares of the parts that come last are too large. Or fewer than `LEAST_EXPOSED` samples are
            within waits.
    """

    stage: Stage
    line: Line
    wall_pct: float
    exposed_pct: float
    cpu_pct: float
    others_pct: float
    spends: str
    is_free: bool
    counts_all: bool = False

    @property
    def title(self) -> str:
        """``transform ElasticDeform``, ``dataset``."""
        return f"{self.stage.kind} {self.stage.name}" if self.stage.kind == "transform" else self.stage.name

    @property
    def share(self) -> float:
        """The share that counts, 0 to 1: of the exposed time, or of all busy time if it is free or `counts_all`."""
        return (self.wall_pct if self.is_free or self.counts_all else self.exposed_pct) / 100


@dataclass(frozen=True)
class SlowLines:
    """The result of profiling a worker.

    Attributes:
        num_workers: of the loader; 0: it works in the training process.
        seconds: length of the profile.
        busy_s: time in which the worker worked; without workers, the time in the loader.
        busy_pct: the same in percent of the profile.
        exposed_s: part of `busy_s` within the trainer's waits.
        waits_pct: share of the step time in which the training waits for data, percent, of the measured steps (not the profiled ones).
        cost_pct: share of the profile's time that the profiler took, percent.
        num_samples: number of stacks in the busy time.
        num_exposed: how many of them are within the trainer's waits.
        too_few_exposed: the worker pauses, and these are fewer than `LEAST_EXPOSED`: the shares are of all its work.
        stages: the largest first, then those that are free, then `waiting` (its shares are of the whole profile).
        lines: the largest first, then those that are free, without `waiting`.
        functions: the same by function, each with its slowest line.
        device_x: how many times as many samples the device can take; None: computed from ``waits_pct``.
    """

    num_workers: int
    seconds: float
    busy_s: float
    busy_pct: float
    exposed_s: float
    waits_pct: float
    cost_pct: float
    num_samples: int
    num_exposed: int
    too_few_exposed: bool
    stages: tuple[Part, ...]
    lines: tuple[Part, ...]
    functions: tuple[Part, ...]
    device_x: float | None = None

    @property
    def top(self) -> Part:
        """The line that takes most of the time that the training waits for."""
        return self.lines[0]

    @property
    def is_free(self) -> bool:
        """The training does not wait for its loader."""
        return self.waits_pct < FREE_BELOW_PCT or self.exposed_s == 0

    @property
    def num_counted(self) -> int:
        """The number of stacks of which the shares are."""
        return self.num_samples if self.top.is_free or self.top.counts_all else self.num_exposed

    def gain(self, part: Part) -> Gain:
        """The gain without a stage or a line. Without a free one, only the loader becomes faster."""
        gain = gain_without(
            part.share, waits=self.waits_pct / 100, num_workers=self.num_workers, device_x=self.device_x
        )
        return replace(gain, run_x=1.0) if part.is_free else gain

    def as_json(self) -> dict[str, Any]:
        """The same as plain values: ``stages``, ``lines`` and ``functions`` are lists of objects with their gains; ``top`` is the first line."""
        values = {key: value for key, value in asdict(self).items() if key not in TABLES}
        tables = {name: [self._part_json(part) for part in getattr(self, name)] for name in TABLES}
        return {**values, **tables, "top": tables["lines"][0]}

    def _part_json(self, part: Part) -> dict[str, Any]:
        values = asdict(part)
        del values["stage"], values["line"]
        gain = {} if part.stage.kind == WAITING else {"gain": asdict(self.gain(part))}
        line = asdict(part.line) | {"place": part.line.place}
        return {"stage": part.stage.kind, "name": part.stage.name, **line, **values, **gain}


def slow_lines(
    recording: Recording, waits: Waits, *, num_workers: int, waits_pct: float, device_x: float | None = None
) -> SlowLines | None:
    """The shares of a worker's time.

    Args:
        recording: of one worker, or of the training process without workers.
        waits: the intervals in which the training waited for a batch, while the recording ran.
        num_workers: of the loader. Without workers, only the time within the waits is the loader's.
        waits_pct: see `SlowLines`.
        device_x: see `SlowLines`.

    Returns:
        None if the worker was busy for less than `LEAST_BUSY_S`.
    """
    placed = [
        _Placed(place_of(entry.stack), entry, exposed)
        for entry, exposed in zip(recording.samples, within_waits(recording.samples, waits), strict=True)
    ]
    if num_workers == 0:  # other loaders of this process are left out
        placed = [entry for entry in placed if entry.exposed or entry.place.stage.kind == WAITING]
    busy = [entry for entry in placed if entry.place.stage.kind != WAITING]
    waiting = [entry for entry in placed if entry.place.stage.kind == WAITING]
    total_ns = recording.wall_ns
    busy_ns = sum(entry.sample.wall_ns for entry in busy)
    exposed_ns = sum(entry.sample.wall_ns for entry in busy if entry.exposed)
    if busy_ns < LEAST_BUSY_S * 1e9:
        return None
    is_free = waits_pct < FREE_BELOW_PCT or not exposed_ns
    without_pause = num_workers > 0 and 100 * busy_ns >= WITHOUT_PAUSE_PCT * total_ns
    num_exposed = sum(entry.exposed for entry in busy)
    # without workers, all of the loader's time is within waits
    too_few_exposed = num_workers > 0 and not is_free and not without_pause and num_exposed < LEAST_EXPOSED
    use = _Use(busy_ns, exposed_ns, is_free, without_pause or too_few_exposed)
    return SlowLines(
        num_workers=num_workers,
        seconds=total_ns / 1e9,
        busy_s=busy_ns / 1e9,
        busy_pct=100 * busy_ns / total_ns,
        exposed_s=exposed_ns / 1e9,
        waits_pct=waits_pct,
        cost_pct=recording.cost_pct(total_ns),
        num_samples=len(busy),
        num_exposed=num_exposed,
        too_few_exposed=too_few_exposed,
        stages=(
            *use.parts(busy, lambda place: place.stage),
            *replace(use, busy_ns=total_ns, exposed_ns=0).parts(waiting, lambda place: place.stage),
        ),
        lines=tuple(use.parts(busy, lambda place: (place.stage, place.line))),
        functions=tuple(use.parts(busy, lambda place: (place.stage, place.line.file, place.line.function))),
        device_x=device_x,
    )


@dataclass(frozen=True)
class _Placed:
    """A sample and where it belongs. ``exposed``: it is within a wait of the trainer."""

    place: Place
    sample: Sample
    exposed: bool


@dataclass(frozen=True)
class _Use:
    """How parts of the busy time are computed.

    Attributes:
        busy_ns, exposed_ns: the whole, of which parts have shares.
        is_free, counts_all: see `Part`.
    """

    busy_ns: int
    exposed_ns: int
    is_free: bool
    counts_all: bool

    def parts(self, entries: Sequence[_Placed], key: Callable[[Place], Hashable]) -> list[Part]:
        """The parts that share a key: the largest first, then those that are free."""
        groups: dict[Hashable, list[_Placed]] = {}
        for entry in entries:
            groups.setdefault(key(entry.place), []).append(entry)
        return sorted(map(self._part, groups.values()), key=lambda part: (part.is_free, -part.share))

    def _part(self, group: Sequence[_Placed]) -> Part:
        wall_ns = sum(entry.sample.wall_ns for entry in group)
        exposed_ns = sum(entry.sample.wall_ns for entry in group if entry.exposed)
        lines: Counter[Line] = Counter()
        for entry in group:
            lines[entry.place.line] += entry.sample.wall_ns
        expected = (
            len(group) * self.exposed_ns / self.busy_ns
        )  # samples within waits, if waits and parts were independent
        cpu_pct = 100 * sum(entry.sample.computing * entry.sample.wall_ns for entry in group) / wall_ns
        others_pct = 100 * sum(entry.sample.others * entry.sample.wall_ns for entry in group) / wall_ns
        return Part(
            stage=group[0].place.stage,
            line=max(lines, key=lines.__getitem__),
            wall_pct=100 * wall_ns / self.busy_ns,
            exposed_pct=100 * exposed_ns / self.exposed_ns if self.exposed_ns else 0.0,
            cpu_pct=cpu_pct,
            others_pct=others_pct,
            spends=_spends(cpu_pct, others_pct),
            is_free=self.is_free or (not exposed_ns and expected >= FEW and not self.counts_all),
            counts_all=self.counts_all,
        )


def _spends(cpu_pct: float, others_pct: float) -> str:
    if cpu_pct >= 50:
        return COMPUTING
    return OTHER_THREADS if others_pct >= 50 else SLEEPING


def within_waits(samples: Sequence[Sample], waits: Waits) -> Iterator[bool]:
    """Whether each sample was taken within a wait. It was taken at its end."""
    begins, ends = [begin for begin, _ in waits], [end for _, end in waits]
    for sample in samples:
        number = bisect_right(begins, sample.end_ns) - 1
        # the handler runs a moment after the sample was taken
        yield number >= 0 and sample.end_ns <= ends[number] + HANDLER_NS

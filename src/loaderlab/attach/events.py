"""What a watched program did: when it asked its loaders for batches, and when its optimizers stepped. Does not import torch.

The recorder keeps this as rows of whole numbers, and writes it as lines of JSON to a file, if there is one.
"""

from __future__ import annotations

import json
import pickle
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

if TYPE_CHECKING:
    from loaderlab.diagnosis.line_figures import LineRecord

NO_GRAD, DRAINED, GRADIENTS = 1, 2, 4  # the bits of `Row.flags`
UNKNOWN = -1
PROFILE_FILE = "profile.pickle"  # next to the file with the events


class Kind(IntEnum):
    """The kinds of rows."""

    START = 0  # an iterator of a loader was created or reset
    BATCH = 1  # an iterator delivered a batch
    END = 2  # an iterator had no more batches
    WAIT = 3  # the thread of the optimizer waited for another thread, which reads a loader
    OPTIMIZER = 4  # an optimizer stepped
    TAKE = 5  # the thread of the optimizer looked whether another thread, which reads a loader, has a batch for it
    COLLECTIVE = 6  # the ranks exchanged gradients or buffers, or waited for each other to do so


# as plain numbers for the hooks: an attribute of an enumeration takes 2 us in a program's step
START, BATCH, END, OPTIMIZER = int(Kind.START), int(Kind.BATCH), int(Kind.END), int(Kind.OPTIMIZER)
COLLECTIVE = int(Kind.COLLECTIVE)


class Row(NamedTuple):
    """One event.

    Attributes:
        loader: the number of the loader object; UNKNOWN for an optimizer's step and a collective.
        passed: the number of the pass over a loader; each iterator has its own, and each reset of a persistent one.
        thread: the identifier of the thread.
        begin_ns, end_ns: on the clock `time.perf_counter_ns`.
        samples: in the batch; 0 if it is not known.
        flags: NO_GRAD: gradients were switched off; DRAINED: the device had finished its work when the batch was there;
            GRADIENTS: the collective exchanged gradients.
        idle_ns: how long the device had nothing to do between the request and the batch, or how long a collective took on it;
            UNKNOWN without a device clock.
        since_ns: time on the device's clock since the previous row that has one; UNKNOWN without.
        ahead_ns: of a TAKE: how long before it the other thread had handed something over last; UNKNOWN if it has not.
    """

    kind: int
    loader: int
    passed: int
    thread: int
    begin_ns: int
    end_ns: int
    samples: int = 0
    flags: int = 0
    idle_ns: int = UNKNOWN
    since_ns: int = UNKNOWN
    ahead_ns: int = UNKNOWN


COLUMNS = 11  # fields of `Row`


class Rows(Sequence[Row]):
    """Rows in a flat array, each of which is made when it is needed: as objects, they would take ten times the memory."""

    def __init__(self, values: array[int]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values) // COLUMNS

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        return Row(*self._values[COLUMNS * number : COLUMNS * (number + 1)])

    def __iter__(self) -> Iterator[Row]:
        columns = [iter(self._values)] * COLUMNS
        return map(Row._make, zip(*columns, strict=True))


@dataclass(frozen=True)
class LoaderFacts:
    """What is known of a loader object.

    Attributes:
        number: from 0, in the order of first use.
        kind: torch or dali.
        title: the name of its class.
        stack: where it was created, ``file:line function``, the innermost frame first; empty if that is not known.
        offsets: of the instructions of these frames.
        made_at: the lines of the user's code in this stack, ``train.py:41``, the innermost first.
        batch_size, num_samples, num_batches: of a batch, of the dataset, of one epoch; 0 if they are not known.
        file_system: type of the file system with the dataset's files, ``nfs4``; empty if it is not known.
    """

    number: int
    kind: str
    title: str
    stack: tuple[str, ...] = ()
    offsets: tuple[int, ...] = ()
    made_at: tuple[str, ...] = ()
    num_workers: int = 0
    prefetch_factor: int | None = None
    pin_memory: bool = False
    persistent_workers: bool = False
    batch_size: int = 0
    num_samples: int = 0
    num_batches: int = 0
    file_system: str = ""


@dataclass(frozen=True)
class Usage:
    """CPU time and bytes read from storage, workers included, during one pass over a loader."""

    loader: int
    passed: int
    seconds: float
    cpu_s: float
    read_bytes: float | None


@dataclass(frozen=True)
class Program:
    """What is known of the program and its machine.

    Attributes:
        device: of the parameters of its first optimizer, ``cuda:0``; empty before the first step.
        device_title: ``cuda:0 NVIDIA H200``.
        readable: it is of a kind whose clock can be read, or that has no clock of its own.
        asynchronous: it queues work while the host runs ahead.
        timed: the device's clock was read.
        cores: that the process may use.
        threads: of torch.
        children: processes that multiprocessing started, apart from the loaders' workers.
        row_cost_ns: time that the recorder takes for a row; 0 if it was not measured.
        stopped_at: the number of optimizer steps after which the measurement was to stop; None: never.
        rank, num_ranks: in the program's process group; 0 and 1 without one.
        node: the name of the machine, in a job of several ranks.
        profiled_from_ns, profiled_to_ns: of the profile of a worker, on the clock `time.perf_counter_ns`; 0 without one.
        unseparated: why the exchange of gradients could not be measured; empty if nothing is known to prevent it.
    """

    device: str = ""
    device_title: str = ""
    readable: bool = True
    asynchronous: bool = False
    timed: bool = False
    cores: int = 1
    threads: int = 1
    children: int = 0
    row_cost_ns: float = 0.0
    stopped_at: int | None = None
    rank: int = 0
    num_ranks: int = 1
    node: str = ""
    profiled_from_ns: int = 0
    profiled_to_ns: int = 0
    unseparated: str = ""


@dataclass(frozen=True)
class LoaderProfile:
    """The profile of a worker of a program's loader.

    Attributes:
        loaders: the numbers of the loader objects that were made where the profiled one was; empty if the profile never began.
    """

    record: LineRecord
    loaders: frozenset[int]


@dataclass(frozen=True)
class Events:
    """Everything that was recorded of a program. ``profile``: None if none was asked for."""

    program: Program
    loaders: Sequence[LoaderFacts] = ()
    rows: Sequence[Row] = ()
    usage: Sequence[Usage] = ()
    profile: LoaderProfile | None = None


def outermost(rows: Sequence[Row]) -> Sequence[Row]:
    """The rows without those inside another row of the same thread, such as the requests of a loader whose samples come from another
    loader. A row is added at its end, so the outer one follows the inner ones."""
    begins: dict[int, int] = {}  # thread: when its last row began that is not inside another
    inside = set()
    for index in reversed(range(len(rows))):
        row = rows[index]
        if row.end_ns > begins.get(row.thread, row.end_ns):
            inside.add(index)
        else:
            begins[row.thread] = row.begin_ns
    return [row for index, row in enumerate(rows) if index not in inside] if inside else rows


def lines(part: Program | LoaderFacts | Usage | Sequence[Row]) -> str:
    """A part of the events as a line of the file."""
    match part:
        case Program():
            entry: dict[str, Any] = {"program": asdict(part)}
        case LoaderFacts():
            entry = {"loader": asdict(part)}
        case Usage():
            entry = {"usage": asdict(part)}
        case _:
            entry = {"rows": part}
    return json.dumps(entry, separators=(",", ":")) + "\n"


def save_profile(profile: LoaderProfile, path: Path) -> None:
    """Writes a profile next to the file with the events, for `read` in the recording process of the same installation.

    Raises:
        OSError: it cannot be written.
    """
    path.with_name(PROFILE_FILE).write_bytes(pickle.dumps(profile))


def read(path: Path) -> Events:
    """The events in a file, and the profile next to it. The program may still be writing it, or may have been killed: an incomplete last line is
    ignored.

    Raises:
        OSError: it cannot be read.
        ValueError: a complete line is not what `lines` writes.
    """
    program, loaders, rows, usage = Program(), {}, array("q"), []
    for entry in _entries(path):
        match entry:
            case {"program": facts}:
                program = Program(**facts)
            case {"loader": facts}:
                stacks = {name: tuple(facts[name]) for name in ("stack", "offsets", "made_at")}
                loaders[facts["number"]] = LoaderFacts(**{**facts, **stacks})
            case {"usage": facts}:
                usage.append(Usage(**facts))
            case {"rows": values}:
                for value in values:
                    rows.extend(value)
    saved = path.with_name(PROFILE_FILE)
    profile: LoaderProfile | None = pickle.loads(saved.read_bytes()) if saved.exists() else None
    return Events(program, tuple(loaders.values()), Rows(rows), usage, profile)


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)

"""Which loaders of a program feed its training, and which an evaluation. Pure: from rows to roles.

A cycle is what happens between two steps of the optimizer. A pass over a loader is *inside* a cycle if the optimizer does not step between
its first and its last batch, as with an evaluation. A loader trains if most of its passes are not inside, and it is the only one in at least
half of the cycles that read it, or is read in more than half of the cycles between its first and its last; if it is read with gradients
switched off, it must be the only one. A loader whose passes are inside trains only if no other loader does, and if most steps of the optimizer
follow a batch of it; or if it is read in most cycles and its data does not end in them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from loaderlab.attach.events import NO_GRAD, Events, Kind, Row

TRAINING, EVALUATION = "training", "evaluation"


@dataclass(frozen=True)
class Roles:
    """The roles of a program's loaders.

    Attributes:
        thread: the thread whose optimizer steps are counted; None if there was no step.
        training, evaluation: numbers of loaders.
        threaded: the training loaders that another thread reads.
        hidden: the threaded ones whose batches reach the training thread in a way that is not visible.
        other_threads: threads with optimizer steps of their own.
        idle_steps: optimizer steps that no batch of any loader preceded; num_steps: all of them. Only of the counted thread.
    """

    thread: int | None
    training: frozenset[int] = frozenset()
    evaluation: frozenset[int] = frozenset()
    threaded: frozenset[int] = frozenset()
    hidden: frozenset[int] = frozenset()
    other_threads: int = 0
    idle_steps: int = 0
    num_steps: int = 0

    @property
    def trains_without_loader(self) -> bool:
        """Whether most steps of the optimizer had no batch of a loader."""
        return 2 * self.idle_steps > self.num_steps


@dataclass
class _Use:
    """How one loader was read by the training thread."""

    batches: int = 0
    without_gradients: int = 0
    ends: int = 0
    cycles: list[int] = field(default_factory=list)  # that read it, in order
    alone: int = 0  # such cycles that read no other loader
    spans: dict[int, tuple[int, int]] = field(
        default_factory=dict
    )  # pass: number of steps before its first and last batch

    def add(self, row: Row, num_steps: int) -> None:
        self.ends += row.kind == Kind.END
        if row.kind == Kind.BATCH:
            self.batches += 1
            self.without_gradients += bool(row.flags & NO_GRAD)
            first, _ = self.spans.get(row.passed, (num_steps, 0))
            self.spans[row.passed] = (first, num_steps)

    def in_cycle(self, cycle: int, *, alone: bool) -> None:
        self.cycles.append(cycle)
        self.alone += alone

    @property
    def is_inside(self) -> bool:
        """Whether most passes are inside a cycle."""
        return 2 * sum(first == last for first, last in self.spans.values()) > len(self.spans)

    @property
    def is_alone(self) -> bool:
        return bool(self.cycles) and 2 * self.alone >= len(self.cycles)

    @property
    def is_frequent(self) -> bool:
        """Whether it is read in most of the cycles between its first and its last."""
        return bool(self.cycles) and 2 * len(self.cycles) > self.cycles[-1] - self.cycles[0] + 1

    @property
    def has_gradients(self) -> bool:
        return 2 * self.without_gradients <= self.batches


def roles_of(events: Events) -> Roles:
    """The roles of the loaders that delivered a batch."""
    steps = Counter(row.thread for row in events.rows if row.kind == Kind.OPTIMIZER)
    if not steps:
        read = {row.loader for row in events.rows if row.kind == Kind.BATCH}
        return Roles(None, evaluation=frozenset(read))
    thread = steps.most_common(1)[0][0]
    uses, idle_steps = _uses(row for row in events.rows if row.thread == thread)
    elsewhere = _read_elsewhere(events.rows, thread) - uses.keys()
    threaded = frozenset(loader for loader in elsewhere if _spans_steps(events.rows, loader, thread))
    mostly_idle = 2 * idle_steps > steps[thread]
    training = _training(uses, others=bool(threaded) or mostly_idle) | threaded
    return Roles(
        thread,
        training,
        frozenset(uses.keys() | elsewhere) - training,
        threaded,
        frozenset(loader for loader in threaded if not is_visible(events.rows, loader, thread)),
        len(steps) - 1,
        idle_steps,
        steps[thread],
    )


def _training(uses: Mapping[int, _Use], *, others: bool) -> frozenset[int]:
    """The loaders that feed the training, of those that its own thread reads.

    Args:
        others: the training is also fed in another way.
    """
    spanning = {loader for loader, use in uses.items() if not use.is_inside and _trains(use)}
    inside = {loader: use for loader, use in uses.items() if use.is_inside and use.has_gradients}
    # one batch of each pass, for example, as with next(iter(loader)) in each step
    read_in_part = {loader for loader, use in inside.items() if use.is_frequent and 2 * use.ends <= len(use.cycles)}
    if spanning or others:
        return frozenset(spanning | (read_in_part if spanning else set()))
    return frozenset(read_in_part | {loader for loader, use in inside.items() if use.is_alone})


def _trains(use: _Use) -> bool:
    return use.is_alone or (use.is_frequent and use.has_gradients)


def _uses(rows: Iterable[Row]) -> tuple[dict[int, _Use], int]:
    """How each loader was read, and the number of optimizer steps before which none was."""
    uses: dict[int, _Use] = defaultdict(_Use)
    cycle = num_steps = idle_steps = 0
    reading, took = set[int](), False
    for row in rows:
        if row.kind == Kind.OPTIMIZER:
            for loader in reading:
                uses[loader].in_cycle(cycle, alone=len(reading) == 1)
            idle_steps += not (reading or took)
            cycle += bool(reading)
            num_steps += 1
            reading, took = set(), False
        elif row.kind in (Kind.BATCH, Kind.END):
            uses[row.loader].add(row, num_steps)
            if row.kind == Kind.BATCH:
                reading.add(row.loader)
        elif row.kind in (Kind.TAKE, Kind.WAIT):
            took = True
    return uses, idle_steps


def _read_elsewhere(rows: Sequence[Row], thread: int) -> set[int]:
    return {row.loader for row in rows if row.kind == Kind.BATCH and row.thread != thread}


def _spans_steps(rows: Sequence[Row], loader: int, thread: int) -> bool:
    """Whether the optimizer stepped between the first and the last batch of a pass over the loader."""
    began: set[int] = set()
    stepped: set[int] = set()
    for row in rows:
        if row.kind == Kind.BATCH and row.loader == loader:
            if row.passed in stepped:
                return True
            began.add(row.passed)
        elif row.kind == Kind.OPTIMIZER and row.thread == thread:
            stepped |= began
    return False


def is_visible(rows: Iterable[Row], loader: int, thread: int) -> bool:
    """Whether the training thread was seen to take this loader's batches from the other thread, about once per batch.

    It looks more often than that if it polls, and then sleeps in a way that is not visible.
    """
    looks = batches = 0
    for row in rows:
        if row.loader == loader:
            looks += row.kind == Kind.TAKE and row.thread == thread
            batches += row.kind == Kind.BATCH
    return batches <= 2 * looks and 2 * looks <= 3 * batches + 2


def is_ahead(rows: Iterable[Row], roles: Roles, step_ns: float) -> bool:
    """Whether threads that read loaders had usually handed a batch over long before it was taken: half a step or more.

    Only this shows that the training does not wait in a way that is not visible, such as a loop that sleeps until there is a batch.
    """
    ahead: list[int] = []
    for row in rows:
        if row.thread != roles.thread:
            continue
        if row.kind == Kind.TAKE and row.loader in roles.threaded:
            ahead.append(row.ahead_ns)
        elif row.kind == Kind.WAIT and ahead:
            ahead[-1] = 0
    return bool(ahead) and median(ahead) >= step_ns / 2

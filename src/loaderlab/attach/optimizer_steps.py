"""From the rows of a program to its steps: what happened between two steps of the optimizer. Pure.

A step begins when the first batch after the previous optimizer step is requested, and ends when the next one is requested. All waits
in between are its waits, so micro-batches of an accumulated step belong to it in any order. The time of evaluations is left out.
If another thread reads the loader, the training takes its batches from that thread instead of requesting them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loaderlab.attach.events import UNKNOWN, Kind, LoaderFacts, Row
from loaderlab.attach.roles import Roles
from loaderlab.attach.segments import Segment, segments
from loaderlab.device.step_times import DeviceStep
from loaderlab.meter.step import Step


@dataclass(frozen=True)
class StepsOfProgram:
    """The steps of a program, and the passes over its training loaders ("epochs").

    Attributes:
        epochs_ns: start and end of each epoch on a clock that stands still outside of its steps.
        epoch_ends_ns: from requesting one more batch to the end of the data, of each epoch.
        num_batches: in all steps together.
        num_unclear: steps that contain a part of an evaluation whose end is not visible; they are not measured.
        num_exchanging: steps in which an exchange of gradients with other ranks was measured.
    """

    steps: list[Step]
    epochs_ns: list[tuple[int, int]]
    epoch_ends_ns: list[int]
    num_batches: int
    num_unclear: int
    num_exchanging: int = 0


@dataclass
class _Cycle:
    """A step that has not ended.

    Attributes:
        mine: one of the judged loaders was read in it.
        stepped: the optimizer stepped in it.
        ended: a pass over a loader ended in it.
        unclear: it contains a part of an evaluation.
        untimed: a part of it has no device time.
        counted: the number of samples of each batch is known.
        exchanges: gradients were exchanged in it.
        profiled: a profile of a worker ran during a part of it.
    """

    mine: bool = False
    stepped: bool = False
    ended: bool = False
    unclear: bool = False
    untimed: bool = False
    counted: bool = True
    exchanges: bool = False
    profiled: bool = False
    wait_ns: int = 0
    idle_ns: int = 0
    length_ns: int = 0
    device_ns: int = 0
    tail_ns: int = 0
    collective_ns: int = 0
    collective_device_ns: int = 0
    samples: int = 0
    batches: int = 0

    def waited(self, segment: Segment) -> None:
        """Adds the wait of one of the judged loaders."""
        self.mine = True
        self.wait_ns += segment.wait_ns
        self.idle_ns += min(max(0, segment.row.idle_ns), segment.wait_ns)
        self.untimed |= segment.row.idle_ns == UNKNOWN

    def received(self, row: Row, batch_size: int) -> None:
        """Adds the samples of a batch. Those of a batch from another thread cannot be counted."""
        samples = row.samples or batch_size
        self.batches += 1
        self.samples += samples
        self.counted &= samples > 0 and row.kind == Kind.BATCH

    def passed(self, segment: Segment, begin_ns: int) -> None:
        """Adds the segment's time from ``begin_ns`` on. What follows the last step of an epoch belongs to no step."""
        if self.ended and self.stepped:
            return
        self.length_ns += segment.end_ns - begin_ns
        self.device_ns += max(0, segment.device_ns)
        self.untimed |= UNKNOWN in (segment.device_ns, segment.collective_device_ns)
        self.collective_ns += segment.collective_ns
        self.collective_device_ns += max(0, segment.collective_device_ns)
        self.exchanges |= segment.exchanges

    def slowed(self) -> None:
        """Notes that a profile of a worker ran."""
        self.profiled = True

    def steps_in(self, segment: Segment) -> None:
        """Notes that the optimizer stepped in the segment."""
        self.stepped = True
        self.tail_ns = segment.tail_ns

    def mixed(self) -> None:
        """Notes that an evaluation and a step of the optimizer follow each other without a visible border."""
        self.stepped = self.unclear = True

    def ends(self) -> None:
        """Notes that a pass over a loader ended."""
        self.ended = True

    def as_step(self, epoch: int, number: int, position: int, *, timed: bool) -> Step:
        length = self.length_ns - (self.tail_ns if self.ended else 0)
        wait = min(self.wait_ns, length)
        untimed = timed and (self.untimed or self.ended)
        collective = min(self.collective_ns, length - wait)
        device = None
        if timed:
            idle, total = (wait, length) if untimed else (self.idle_ns, max(self.device_ns, self.idle_ns))
            shared = collective if untimed else min(self.collective_device_ns, total - idle)
            device = DeviceStep(idle / 1e6, 0.0, (total - idle) / 1e6, 0.0, 0.0, float("nan"), collective=shared / 1e6)
        return Step(
            epoch=epoch,
            step=number,
            position=position,
            num_samples=self.samples if self.counted else 0,
            host=(wait, 0, length - wait, 0, 0),
            device=device,
            disturbed=self.unclear or untimed or self.profiled,
            collective_ns=collective,
        )


@dataclass
class _Epoch:
    """A pass over the training loaders."""

    length_ns: int = 0
    end_ns: int = 0
    num_steps: int = 0

    def add(self, step: Step) -> None:
        self.num_steps += 1
        self.length_ns += round(1e6 * step.length_ms)

    def ends(self, segment: Segment) -> None:
        self.end_ns += segment.wait_ns


@dataclass
class _Builder:
    """Puts segments together to steps.

    Attributes:
        only: the judged loaders.
        timed: the device's clock was read.
        profiled_ns: begin and end of a profile of a worker.
    """

    roles: Roles
    batch_sizes: Mapping[int, int]
    only: frozenset[int]
    timed: bool
    profiled_ns: tuple[int, int] = (0, 0)
    steps: list[Step] = field(default_factory=list)
    epochs: list[_Epoch] = field(default_factory=list)
    num_batches: int = 0
    num_unclear: int = 0
    num_exchanging: int = 0
    cycle: _Cycle | None = None
    passed: int = UNKNOWN  # the pass that another thread reads

    def add(self, segment: Segment) -> None:
        row = segment.row
        if row.loader in self.roles.training:
            self._training(segment)
        elif self.cycle is not None:
            if row.kind != Kind.END:
                if segment.num_steps:
                    self.cycle.mixed()
            # after the step, what follows belongs to the evaluation: a trainer that requests one batch ahead works on its last batch
            elif segment.num_steps or not self.cycle.stepped:
                self.cycle.passed(segment, row.end_ns)
        if self.cycle is None:
            return
        if segment.num_steps:
            self.cycle.steps_in(segment)
        if row.begin_ns < self.profiled_ns[1] and segment.end_ns > self.profiled_ns[0]:
            self.cycle.slowed()

    def _training(self, segment: Segment) -> None:
        row, mine = segment.row, segment.row.loader in self.only
        if self.cycle is not None and self.cycle.stepped:
            self.close()
        if mine and (row.kind == Kind.START or (row.kind in (Kind.WAIT, Kind.TAKE) and self._is_new_pass(row))):
            self._begin_epoch()
        if self.cycle is None:
            if row.kind == Kind.END:  # the data has ended after the last step
                if mine and self.epochs:
                    self.epochs[-1].ends(segment)
                return
            self.cycle = _Cycle()
        if (
            row.kind == Kind.END
        ):  # requested ahead of the last steps: it is time between epochs, not a wait of this step
            self.cycle.ends()
            if mine and self.epochs:
                self.epochs[-1].ends(segment)
            self.cycle.passed(segment, row.end_ns)
            return
        if mine:
            self.cycle.waited(segment)
        if row.kind in (Kind.BATCH, Kind.TAKE):
            self.cycle.received(row, self.batch_sizes.get(row.loader, 0))
        self.cycle.passed(segment, row.begin_ns)

    def _is_new_pass(self, row: Row) -> bool:
        before, self.passed = self.passed, row.passed
        return before != row.passed

    def _begin_epoch(self) -> None:
        """Begins an epoch with the open step, or with the next one. Loaders that start together begin one epoch."""
        if not self.epochs or self.epochs[-1].num_steps:
            self.epochs.append(_Epoch())

    def close(self) -> None:
        """Ends the open step. One in which the optimizer did not step, at the end of the program, is not a step."""
        cycle, self.cycle = self.cycle, None
        if cycle is None or not cycle.mine or not cycle.stepped:
            return
        if not self.epochs:
            self._begin_epoch()
        epoch = self.epochs[-1]
        step = cycle.as_step(len(self.epochs) - 1, len(self.steps), epoch.num_steps, timed=self.timed)
        self.steps.append(step)
        self.num_batches += cycle.batches
        self.num_unclear += cycle.unclear
        self.num_exchanging += cycle.exchanges
        epoch.add(step)


def steps_of(
    rows: Sequence[Row],
    roles: Roles,
    loaders: Sequence[LoaderFacts],
    only: frozenset[int],
    *,
    timed: bool,
    profiled_ns: tuple[int, int] = (0, 0),
) -> StepsOfProgram:
    """The steps in which the loaders ``only`` were read, with their waits.

    Args:
        only: numbers of training loaders.
        timed: the device's clock was read.
        profiled_ns: begin and end of a profile of a worker, whose steps are not measured.
    """
    builder = _Builder(roles, {facts.number: facts.batch_size for facts in loaders}, only, timed, profiled_ns)
    for segment in segments(rows, roles.thread):
        builder.add(segment)
    builder.close()
    epochs_ns, begin = [], 0
    for epoch in builder.epochs:
        epochs_ns.append((begin, begin + epoch.length_ns + epoch.end_ns))
        begin = epochs_ns[-1][1]
    ends = [epoch.end_ns for epoch in builder.epochs]
    return StepsOfProgram(
        builder.steps, epochs_ns, ends, builder.num_batches, builder.num_unclear, builder.num_exchanging
    )

"""Decides which call of `Watch.batches` is measured: loops can follow each other, stop early, or be nested.

The meter records stretches. A loop is one stretch, or several if other loops ran inside it. When a newer loop begins, the
running one is left. If it is never continued, the two loops follow each other. If it is continued, the newer one ran inside
it (an evaluation, for example) and is not counted. If the outer loop stops right after the inner one, the inner one looks
like a loop that follows: it is counted, and the verdict says so, unless its loader has been read inside a loop before.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from loaderlab.config import UserError
from loaderlab.diagnosis.evidence import Setup
from loaderlab.meter.phases import StepMeter
from loaderlab.meter.step import Step

INSIDE = "{} steps of loops inside this loop are not counted: measure them with a second watch(device)"
EARLY = (
    "{} steps belong to loops that began before an earlier loop had ended, and are counted: if they are an evaluation, "
    "measure it with a second watch(device)"
)


@dataclass(frozen=True)
class Stretches:
    """The meter's records without inner loops and without stretches that have no step; epochs and steps are numbered from 0.
    See `loaderlab.meter.phases.StepMeter`."""

    steps: list[Step]
    epochs_ns: list[tuple[int, int]]
    epoch_ends_ns: list[int]
    used: dict[str, float]


@dataclass(eq=False)
class Loop:
    """One call of `Watch.batches`.

    Attributes:
        loader: a weak reference; None if the loader does not support one.
        interrupted: another loop ran before the current batch was done: its step is not measured.
        early: it began before another loop had ended.
        inside: early, and the other loop was continued later, or is known to have inner loops.
        has_inside: it was continued after loops that had begun before its end.
        over: exhausted, closed or dropped.
    """

    setup: Setup
    loader: weakref.ref[Any] | None = None
    interrupted: bool = False
    early: bool = False
    inside: bool = False
    has_inside: bool = False
    over: bool = False

    def same_loader(self, other: Loop) -> bool:
        loader = None if self.loader is None else self.loader()
        return loader is not None and other.loader is not None and other.loader() is loader


def loop_of(loader: object, setup: Setup) -> Loop:
    """A `Loop` that does not keep its loader alive."""
    try:
        return Loop(setup, weakref.ref(loader))
    except TypeError:
        return Loop(setup)


class Loops:
    """The loops of one meter.

    Garbage collection may drop an iterator at any time and in any thread: this ends only the iterator's own loop.
    """

    def __init__(self, meter: StepMeter, after_stretch: Callable[[], None]) -> None:
        self._meter, self._after_stretch = meter, after_stretch
        self._running: Loop | None = None
        self._left: list[Loop] = []  # loops that may be continued; the newest last
        self._owners: list[Loop] = []  # the loop of each stretch
        self._used: list[Mapping[str, float]] = []  # the increase of each counter in each stretch
        self._lock = threading.RLock()
        self.is_open = False  # a batch was delivered, and its step has not ended

    @property
    def setup(self) -> Setup | None:
        """Setup of the newest loop that did not run inside another."""
        return next((loop.setup for loop in reversed(self._owners) if not loop.inside), None)

    def begin(self, loop: Loop) -> None:
        """Starts measuring a new loop and leaves the running one."""
        with self._lock:
            if (left := self._running) is not None:
                left.interrupted = left.interrupted or self.is_open
                self._stop(exhausted=False)
                if not left.over:  # it may have been dropped in the meantime
                    self._left.append(left)
            loop.early = bool(self._left)
            loop.inside = loop.early and (
                (self._left[-1].has_inside and not self._left[-1].same_loader(loop))
                or any(older.inside and older.same_loader(loop) for older in self._owners)
            )
            self._start(loop)

    def continues(self, loop: Loop) -> bool:
        """Whether no other loop ran since the loop's last batch; otherwise a new stretch of it starts now.

        Raises:
            UserError: a newer loop still runs.
        """
        with self._lock:
            loop.interrupted = False
            if self._running is loop:
                return True
            if self._running is not None or loop not in self._left:
                raise UserError(
                    "watch: meter.batches(loader) was called again while this loop was running. One loop at a time: a loop "
                    "inside another must end before the outer one continues. Measure the other loop with a second "
                    "watch(device), or read its loader without meter.batches"
                )
            del self._left[self._left.index(loop) :]
            last = len(self._owners) - 1 - self._owners[::-1].index(loop)
            for later in self._owners[last + 1 :]:
                later.inside = loop.has_inside = True
            self._start(loop)
            return False

    def end(self, loop: Loop, exhausted: bool) -> None:
        """Ends this loop only; does nothing if it has ended."""
        with self._lock:
            loop.over = True
            if self._running is loop:
                self._stop(exhausted)
            elif loop in self._left:
                self._left.remove(loop)

    def end_all(self) -> None:
        with self._lock:
            self._left.clear()
            if self._running is not None:
                self.end(self._running, exhausted=False)

    def begin_step(self, loop: Loop, measured: bool) -> None:
        """Records that the loop delivers a batch; not ``measured`` if another loop ran while it was fetched."""
        self.is_open, loop.interrupted = measured, not measured

    def end_step(self) -> None:
        self.is_open = False

    def interrupted(self) -> Loop | None:
        """The newest loop whose current batch was interrupted by another loop."""
        loops = [*self._left, *([self._running] if self._running is not None else [])]
        return next((loop for loop in reversed(loops) if loop.interrupted), None)

    def end_interrupted(self) -> bool:
        """Ends an interrupted batch without recording a step; returns whether there was one."""
        loop = None if self.is_open else self.interrupted()
        if loop is not None:
            loop.interrupted = False
        return loop is not None

    def record(self, steps: list[Step]) -> Stretches:
        """The records of the loops that are counted.

        Args:
            steps: the meter's steps to include.
        """
        with_steps = dict.fromkeys(step.epoch for step in self._meter.steps)
        ends = dict(zip(with_steps, self._meter.epoch_ends_ns, strict=False))
        kept = [number for number in with_steps if not self._owners[number].inside]
        ended = [number for number in kept if number < len(self._meter.epochs_ns)]
        used: dict[str, float] = {}
        for number in ended:
            for name, value in self._used[number].items():
                used[name] = used.get(name, 0.0) + value
        if len(kept) != len(self._owners):
            index = {number: position for position, number in enumerate(kept)}
            own = [step for step in steps if step.epoch in index]
            steps = [replace(step, step=number, epoch=index[step.epoch]) for number, step in enumerate(own)]
        return Stretches(
            steps=steps,
            epochs_ns=[self._meter.epochs_ns[number] for number in ended],
            epoch_ends_ns=[ends[number] for number in ended],
            used=used,
        )

    def notes(self) -> list[str]:
        """Notes for the verdict about inner and early loops."""
        owners = [self._owners[step.epoch] for step in self._meter.steps]
        inside = sum(loop.inside for loop in owners)
        early = sum(loop.early and not loop.inside for loop in owners)
        notes = [INSIDE.format(inside)] if inside else []
        return notes + ([EARLY.format(early)] if early else [])

    def _start(self, loop: Loop) -> None:
        self._meter.begin_epoch(len(self._owners))
        self._owners.append(loop)
        self._running = loop

    def _stop(self, exhausted: bool) -> None:
        self._running = None
        if self.is_open:
            self._meter.drop_step()
            self.is_open = False
        before = dict(self._meter.used)
        self._meter.end_epoch(exhausted)
        self._used.append({name: value - before.get(name, 0.0) for name, value in self._meter.used.items()})
        self._after_stretch()

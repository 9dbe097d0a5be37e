"""Loops that follow each other, break off, or run inside one another: which steps belong to which epoch."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loaderlab import watch
from loaderlab.attach.watch import Watch
from loaderlab.config import UserError
from loaderlab.meter.step import Step

MS = 1_000_000


class Clock:
    """Nanoseconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def pass_ms(self, ms: float) -> None:
        self.now += int(ms * MS)

    def loader(self, num_batches: int, wait_ms: float) -> Iterator[int]:
        for index in range(num_batches):
            self.pass_ms(wait_ms)
            yield index


@contextmanager
def simulated() -> Iterator[tuple[Watch, Clock]]:
    """A watch whose loop takes simulated time, and that reads no memory and no processor."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loaderlab.attach.watch.resources.counters", dict)
        with watch("cpu", warmup_steps=0) as meter:
            patch.setattr(meter._memory, "after_epoch", lambda _: None)
            patch.setattr(meter._meter, "_clock", clock)
            yield meter, clock


def recorded(meter: Watch) -> list[Step]:
    return list(meter._loop().steps)


def work(meter: Watch, clock: Clock, ms: float = 9) -> None:
    clock.pass_ms(ms)
    meter.step(num_samples=1)


def dropped(iterator: Iterator[int]) -> Iterator[int]:
    """The iterator in a cycle that only garbage collection ends."""
    cycle: list[Any] = [iterator]
    cycle.append(cycle)
    return iterator


# ---- an evaluation inside the loop ---------------------------------------------------------------------------------


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("breaks", [True, False])
def test_an_evaluation_inside_the_loop_is_left_out(held: bool, breaks: bool) -> None:
    """Training waits 0.01 of each 10 ms; the evaluation waits nearly all of its time."""
    with simulated() as (meter, clock):
        for index, _ in enumerate(meter.batches(clock.loader(40, 0.01))):
            work(meter, clock, 9.99)
            if index % 10 == 9:
                inner = meter.batches(clock.loader(5, 90))
                for number, _ in enumerate(inner if held else meter.batches(clock.loader(5, 90))):
                    work(meter, clock, 1)
                    if breaks and number == 3:
                        break
                if held:
                    assert isinstance(inner, Generator)
                    inner.close()
        verdict, figures = meter.verdict(), meter.figures()
    assert [step.position for step in recorded(meter)] == [*range(10)] * 4
    assert {step.num_samples for step in recorded(meter)} == {1}
    assert figures["starvation/starved_pct"] == pytest.approx(0.1)
    assert figures["starvation/epoch_gap_pct"] < 0.1
    assert figures["time/train_s"] == pytest.approx(0.4)
    assert verdict.grade == "fed"
    assert f"{16 if breaks else 20} steps of loops inside this loop are not counted" in verdict.because
    assert "a second watch(device)" in verdict.because


def test_an_evaluation_within_a_step_costs_that_step_alone() -> None:
    """It begins before meter.step() of its batch: that batch is not measured, and the user's calls stay as they are."""
    with simulated() as (meter, clock):
        for index, _ in enumerate(meter.batches(clock.loader(40, 1))):
            if index % 10 == 9:
                for _ in meter.batches(clock.loader(5, 90)):
                    work(meter, clock)
            meter.delivered()
            work(meter, clock)
        figures = meter.figures()
    assert len(recorded(meter)) == 36
    assert figures["starvation/starved_pct"] == pytest.approx(10)


def test_nested_twice() -> None:
    with simulated() as (meter, clock):
        for _ in meter.batches(clock.loader(3, 1)):
            work(meter, clock)
            for _ in meter.batches(clock.loader(2, 5)):
                work(meter, clock)
                for _ in meter.batches(clock.loader(4, 7)):
                    work(meter, clock)
    assert [(step.epoch, step.step, step.host[0]) for step in recorded(meter)] == [(n, n, MS) for n in range(3)]


def test_a_loop_inside_another_that_has_not_ended_is_refused() -> None:
    with simulated() as (meter, clock):
        outer, inner = meter.batches(clock.loader(5, 1)), meter.batches(clock.loader(5, 1))
        next(outer)
        work(meter, clock)
        next(inner)
        with pytest.raises(
            UserError, match=r"One loop at a time.* by a second watch\(device\), or .*without meter\.batches"
        ):
            next(outer)
        work(meter, clock)
        for _ in inner:
            work(meter, clock)
    assert [step.epoch for step in recorded(meter)] == [0] + [1] * 5


def test_a_watched_loader_inside_a_watched_loader_is_refused() -> None:
    with simulated() as (meter, clock):
        batches = meter.batches(meter.batches(clock.loader(5, 1)))
        with pytest.raises(UserError, match="One loop at a time"):
            next(batches)


def test_a_loop_whose_loader_reads_another_loop_whole_loses_that_step() -> None:
    def loader(meter: Watch, clock: Clock) -> Iterator[int]:
        for index in range(4):
            clock.pass_ms(1)
            if index == 2:
                for _ in meter.batches(clock.loader(3, 50)):
                    work(meter, clock)
            yield index

    with simulated() as (meter, clock):
        for _ in meter.batches(loader(meter, clock)):
            work(meter, clock)
    assert [step.host[0] for step in recorded(meter)] == [MS] * 3


def test_a_loop_that_was_left_and_is_not_used_again_changes_nothing() -> None:
    with simulated() as (meter, clock):
        left = meter.batches(clock.loader(5, 1))
        next(left)
        work(meter, clock)
        for _ in range(2):
            for _ in meter.batches(clock.loader(20, 1)):
                work(meter, clock)
        verdict = meter.verdict()
    assert [step.epoch for step in recorded(meter)] == [0] + [1] * 20 + [2] * 20
    assert "40 steps are of loops that began before an earlier one had ended, and are counted" in verdict.because


# ---- ways to leave a loop ------------------------------------------------------------------------------------------


def closed(iterators: list[Iterator[int]]) -> None:
    iterator = iterators.pop()
    assert isinstance(iterator, Generator)
    iterator.close()


def deleted(iterators: list[Iterator[int]]) -> None:
    iterators.clear()


def collected(iterators: list[Iterator[int]]) -> None:
    dropped(iterators.pop())
    gc.collect()


def raised(iterators: list[Iterator[int]]) -> None:
    iterator = iterators.pop()
    assert isinstance(iterator, Generator)
    with pytest.raises(KeyError):
        iterator.throw(KeyError("of the user"))


def in_a_thread(iterators: list[Iterator[int]]) -> None:
    thread = threading.Thread(target=collected, args=(iterators,))
    thread.start()
    thread.join()


WAYS = [closed, deleted, collected, raised, in_a_thread]


@pytest.mark.parametrize("leave", WAYS)
@pytest.mark.parametrize("is_open", [True, False], ids=["in a step", "between steps"])
def test_an_older_loop_that_ends_later_ends_only_itself(
    leave: Callable[[list[Iterator[int]]], None], is_open: bool
) -> None:
    with simulated() as (meter, clock):
        older = [meter.batches(clock.loader(5, 1))]
        next(older[0])
        work(meter, clock)
        for index, _ in enumerate(meter.batches(clock.loader(6, 1))):
            if index == 3 and is_open:
                leave(older)
            work(meter, clock)
            if index == 3 and not is_open:
                leave(older)
    assert [(step.epoch, step.position) for step in recorded(meter)] == [(0, 0), *[(1, n) for n in range(6)]]
    assert {step.host[0] for step in recorded(meter)} == {MS}


@pytest.mark.parametrize("leave", WAYS)
def test_the_running_loop_ends_when_it_is_left(leave: Callable[[list[Iterator[int]]], None]) -> None:
    with simulated() as (meter, clock):
        running = [meter.batches(clock.loader(5, 1))]
        for _ in range(2):
            next(running[0])
            work(meter, clock)
        next(running[0])  # its step is not measured
        clock.pass_ms(9)
        leave(running)
        clock.pass_ms(1000)
        with pytest.raises(UserError, match="there is none to end"):
            meter.step(num_samples=1)
    assert len(recorded(meter)) == 2
    assert meter._loop().epochs_ns == [(0, 20 * MS)]


def test_a_traceback_that_keeps_an_iterator() -> None:
    """As in a notebook: the error of one cell is kept until the next error, while another cell trains."""

    def cell(meter: Watch, clock: Clock) -> None:
        batches = meter.batches(clock.loader(5, 1))
        for _ in batches:
            work(meter, clock)
            raise KeyError("of the user")

    with simulated() as (meter, clock):
        with pytest.raises(KeyError) as kept:
            cell(meter, clock)
        for index, _ in enumerate(meter.batches(clock.loader(6, 1))):
            work(meter, clock)
            if index == 3:
                del kept
                gc.collect()
    assert [step.epoch for step in recorded(meter)] == [0] + [1] * 6


# ---- any sequence of calls against a model -------------------------------------------------------------------------


class Model:
    """Which calls of a user belong together, in plain lists: the expected epochs of each sequence."""

    def __init__(self) -> None:
        self.running: int | None = None
        self.left: list[int] = []
        self.is_open = False
        self.interrupted: list[int] = []
        self.rest: dict[int, int] = {}
        self.stretches: list[int] = []
        self.inside: set[int] = set()
        self.steps: list[int] = []  # the stretch of each

    def begin(self, loop: int, num_batches: int) -> str:
        if self.running is not None:
            self.left.append(self.running)
            self.interrupted += [self.running] * self.is_open
        self.is_open, self.running, self.rest[loop] = False, loop, num_batches
        self.stretches.append(loop)
        return self._give(loop)

    def next(self, loop: int) -> str:
        if loop not in self.rest:
            return "over"
        self.interrupted = [one for one in self.interrupted if one != loop]
        if self.running == loop:
            if self.is_open:
                self.close(loop)
                return "refused"
            return self._give(loop)
        if self.running is not None or loop not in self.left:
            self.close(loop)
            return "refused"
        self.left = self.left[: self.left.index(loop)]
        newest = max(index for index, owner in enumerate(self.stretches) if owner == loop)
        self.inside |= set(self.stretches[newest + 1 :])
        self.stretches.append(loop)
        self.running = loop
        return self._give(loop)

    def _give(self, loop: int) -> str:
        if self.rest[loop] == 0:
            self.close(loop)
            return "over"
        self.rest[loop] -= 1
        self.is_open = True
        return "batch"

    def step(self) -> str:
        if self.is_open:
            self.steps.append(len(self.stretches) - 1)
            self.is_open = False
            return "step"
        alive = [loop for loop in [*self.left, self.running] if loop in self.interrupted]
        if not alive:
            return "refused"
        self.interrupted = [one for one in self.interrupted if one != alive[-1]]
        return "step"

    def close(self, loop: int) -> None:
        self.rest.pop(loop, None)
        self.left = [one for one in self.left if one != loop]
        if self.running == loop:
            self.running, self.is_open = None, False

    @property
    def epochs(self) -> list[int]:
        """How many steps each stretch has that counts."""
        kept = [stretch for stretch in self.steps if self.stretches[stretch] not in self.inside]
        return [len(list(same)) for _, same in groupby(kept)]


CALLS = st.tuples(
    st.sampled_from(["begin", "next", "next", "step", "step", "step", "close", "drop"]), st.integers(0, 3)
)


def outcome(call: Callable[[], object], done: str) -> str:
    try:
        call()
    except StopIteration:
        return "over"
    except UserError:
        return "refused"
    return done


def apply(
    call: tuple[str, int], meter: Watch, clock: Clock, model: Model, iterators: dict[int, Iterator[int]]
) -> tuple[str, str]:
    """What a call does, and what the model says."""
    name, number = call
    if name == "step":
        return outcome(lambda: meter.step(num_samples=1), "step"), model.step()
    if name == "begin":
        loop = len(model.stretches)  # a new one: each begun or continued loop adds one
        iterators[loop] = meter.batches(clock.loader(number + 1, 1))
        return outcome(lambda: next(iterators[loop]), "batch"), model.begin(loop, number + 1)
    if not iterators:
        return "", ""
    loop = list(iterators)[number % len(iterators)]
    if name == "next":
        return outcome(lambda: next(iterators[loop]), "batch"), model.next(loop)
    if name == "close":
        closed([iterators[loop]])
    del iterators[loop]
    model.close(loop)
    return "", ""


@given(st.lists(CALLS, max_size=30))
def test_property_any_sequence_of_calls_has_the_steps_of_a_simple_model(calls: list[tuple[str, int]]) -> None:
    with simulated() as (meter, clock):
        model, iterators = Model(), dict[int, Iterator[int]]()
        for call in calls:
            clock.pass_ms(10)
            got, expected = apply(call, meter, clock, model, iterators)
            assert got == expected
    steps, loop_record = recorded(meter), meter._loop()
    epochs = [len(list(same)) for _, same in groupby(steps, key=lambda step: step.epoch)]
    assert epochs == model.epochs
    assert [step.step for step in steps] == list(range(len(steps)))
    assert [step.epoch for step in steps] == sorted(step.epoch for step in steps)
    assert {step.host[0] for step in steps} <= {MS}  # the loader's wait, and nothing of another loop
    assert len(loop_record.epochs_ns) == len(loop_record.epoch_ends_ns) == len(epochs)
    for index, (begin, end) in enumerate(loop_record.epochs_ns):
        own = [step for step in steps if step.epoch == index]
        assert end - begin >= sum(step.host_ns for step in own) - own[-1].other

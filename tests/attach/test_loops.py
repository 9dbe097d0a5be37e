"""Loops that follow each other, stop early, or are nested: which steps belong to which epoch."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from loaderlab import watch
from loaderlab.attach.watch import Watch
from loaderlab.config import UserError
from loaderlab.meter.step import Step
from tests.attach.planted_time import MS, Clock


class LoopClock(Clock):
    """A clock with loaders whose batches take a planted time."""

    def loader(self, num_batches: int, wait_ms: float) -> Iterator[int]:
        for index in range(num_batches):
            self.pass_ms(wait_ms)
            yield index


@contextmanager
def simulated() -> Iterator[tuple[Watch, LoopClock]]:
    """A watch whose loop takes simulated time, and that does not read memory or CPU counters."""
    clock = LoopClock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loaderlab.attach.watch.resources.counters", dict)
        with watch("cpu", warmup_steps=0) as meter:
            patch.setattr(meter._memory, "after_epoch", lambda _: None)
            patch.setattr(meter._meter, "_clock", clock)
            yield meter, clock


def recorded(meter: Watch) -> list[Step]:
    return list(meter._loop().steps)


def work(meter: Watch, clock: LoopClock, ms: float = 9) -> None:
    clock.pass_ms(ms)
    meter.step(num_samples=1)


def dropped(iterator: Iterator[int]) -> Iterator[int]:
    """The iterator in a reference cycle, which only garbage collection breaks."""
    cycle: list[Any] = [iterator]
    cycle.append(cycle)
    return iterator


# ---- an evaluation inside the loop ---------------------------------------------------------------------------------


@pytest.mark.parametrize("referenced", [True, False])
@pytest.mark.parametrize("breaks", [True, False])
def test_an_evaluation_inside_the_loop_is_left_out(referenced: bool, breaks: bool) -> None:
    """Training waits 0.01 ms of every 10 ms; the evaluation waits nearly all of its time."""
    with simulated() as (meter, clock):
        for index, _ in enumerate(meter.batches(clock.loader(40, 0.01))):
            work(meter, clock, 9.99)
            if index % 10 == 9:
                inner = meter.batches(clock.loader(5, 90))
                for number, _ in enumerate(inner if referenced else meter.batches(clock.loader(5, 90))):
                    work(meter, clock, 1)
                    if breaks and number == 3:
                        break
                if referenced:
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


class Evaluation:
    """A loader that can be read many times, like a DataLoader."""

    def __init__(self, clock: LoopClock) -> None:
        self._clock = clock

    def __iter__(self) -> Iterator[int]:
        return self._clock.loader(5, 90)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_loop_that_stops_after_its_last_evaluation(fresh: bool) -> None:
    """The last evaluation looks like a loop that follows; its loader or the earlier evaluations show that it is not."""
    with simulated() as (meter, clock):
        evaluation = Evaluation(clock)
        for index, _ in enumerate(meter.batches(clock.loader(99, 1))):
            work(meter, clock)
            if index % 10 == 9:
                for _ in meter.batches(Evaluation(clock) if fresh else evaluation):
                    work(meter, clock)
                # until the outer loop continues, its first evaluation looks like the next loop
                assert len(recorded(meter)) == index + 1 + 5 * (index == 9)
            if index == 29:
                break
        for _ in meter.batches(clock.loader(5, 1)):  # a loop that does follow
            work(meter, clock)
        verdict = meter.verdict()
    assert [step.epoch for step in recorded(meter)] == [0] * 10 + [1] * 10 + [2] * 10 + [3] * 5
    assert "15 steps of loops inside" in verdict.because
    assert "are counted" not in verdict.because


def test_an_evaluation_within_a_step_costs_that_step_alone() -> None:
    """It begins before meter.step() of its batch: only that batch is not measured, and no call raises an error."""
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
            UserError, match=r"One loop at a time.* with a second watch\(device\), or .*without meter\.batches"
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


def test_a_loop_whose_loader_runs_another_loop_loses_that_step() -> None:
    def loader(meter: Watch, clock: LoopClock) -> Iterator[int]:
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


def test_a_loop_that_is_not_continued_changes_nothing() -> None:
    with simulated() as (meter, clock):
        left = meter.batches(clock.loader(5, 1))
        next(left)
        work(meter, clock)
        for _ in range(2):
            for _ in meter.batches(clock.loader(20, 1)):
                work(meter, clock)
        verdict = meter.verdict()
    assert [step.epoch for step in recorded(meter)] == [0] + [1] * 20 + [2] * 20
    assert "40 steps belong to loops that began before an earlier loop had ended, and are counted" in verdict.because


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
    """As in a notebook: the error of one cell is kept until the next error, while another cell is training."""

    def cell(meter: Watch, clock: LoopClock) -> None:
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

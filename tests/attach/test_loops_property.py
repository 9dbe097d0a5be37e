"""Any sequence of calls on a watch, compared with a simple model: which steps belong to which epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from loaderlab.attach.watch import Watch
from loaderlab.config import UserError
from tests.attach.planted_time import MS
from tests.attach.test_loops import LoopClock, closed, recorded, simulated


class Model:
    """A simple model of a watch in plain lists: the expected epochs of each sequence of calls."""

    def __init__(self) -> None:
        self.running: int | None = None
        self.left: list[int] = []
        self.is_open = False
        self.interrupted: list[int] = []
        self.rest: dict[int, int] = {}
        self.stretches: list[int] = []
        self.inside: set[int] = set()
        self.has_inside: set[int] = set()
        self.steps: list[int] = []  # the stretch of each

    def begin(self, loop: int, num_batches: int) -> str:
        if self.running is not None:
            self.left.append(self.running)
            self.interrupted += [self.running] * self.is_open
        self.is_open, self.running, self.rest[loop] = False, loop, num_batches
        self.stretches.append(loop)
        if self.left and self.left[-1] in self.has_inside:
            self.inside.add(len(self.stretches) - 1)
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
        later = set(self.stretches[newest + 1 :])
        self.inside |= later
        self.has_inside |= {loop} if later else set()
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
        """The number of steps of each stretch that is counted."""
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
    call: tuple[str, int], meter: Watch, clock: LoopClock, model: Model, iterators: dict[int, Iterator[int]]
) -> tuple[str, str]:
    """The outcome of a call, and the model's."""
    name, number = call
    if name == "step":
        return outcome(lambda: meter.step(num_samples=1), "step"), model.step()
    if name == "begin":
        loop = len(model.stretches)  # a new number: each loop that begins or continues adds a stretch
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
            actual, expected = apply(call, meter, clock, model, iterators)
            assert actual == expected
    steps, loop_record = recorded(meter), meter._loop()
    epochs = [len(list(same)) for _, same in groupby(steps, key=lambda step: step.epoch)]
    assert epochs == model.epochs
    assert [step.step for step in steps] == list(range(len(steps)))
    assert [step.epoch for step in steps] == sorted(step.epoch for step in steps)
    assert {step.host[0] for step in steps} <= {MS}  # the loader's wait, without time of another loop
    assert len(loop_record.epochs_ns) == len(loop_record.epoch_ends_ns) == len(epochs)
    for index, (begin, end) in enumerate(loop_record.epochs_ns):
        own = [step for step in steps if step.epoch == index]
        assert end - begin >= sum(step.host_ns for step in own) - own[-1].other

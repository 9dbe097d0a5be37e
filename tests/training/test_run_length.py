"""The expected length of a run and its learning rate, for datasets whose length is wrong."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from loaderlab.config import SgdOptimizer
from loaderlab.training.optimizers import factor
from loaderlab.training.run_length import RunLength


def rates(length: RunLength, schedule: str, true_steps: int, epochs: int) -> list[float]:
    """The learning rate at each update of a run whose epochs have ``true_steps`` steps."""
    share = factor(SgdOptimizer(lr=1.0, schedule=schedule), length.num_updates(), length.num_updates)
    updates, result = 0, []
    for epoch in range(epochs):
        rate = share(updates)
        for _ in range(-(-true_steps // length.accumulate)):
            result.append(rate)
            updates += 1
            rate = share(updates)
        if not length.exact:
            length.end_epoch(epochs=epoch + 1, steps=(epoch + 1) * true_steps, updates=updates)
    return result


def test_ten_times_as_many_steps_as_claimed() -> None:
    """After the first epoch the schedule is the true one, and it ends with the run."""
    claimed = rates(RunLength(5, None, 1, 2, exact=False), "linear", 20, 5)
    true = rates(RunLength(5, None, 1, 20), "linear", 20, 5)
    assert true[20:] == [pytest.approx(1 - update / 100) for update in range(20, 100)]
    assert claimed[20:] == true[20:]
    assert claimed[:4] == [1.0, 1 - 1 / 10, 1 - 2 / 20, 1 - 3 / 20]  # the estimate is doubled to four steps per epoch
    assert min(claimed[:20]) >= 0.8  # the first of five epochs


def test_a_fifth_of_the_steps_that_are_claimed() -> None:
    claimed = rates(RunLength(5, None, 1, 100, exact=False), "linear", 20, 5)
    assert claimed[:20] == [pytest.approx(1 - update / 500) for update in range(20)]
    assert claimed[20:] == [pytest.approx(1 - update / 100) for update in range(20, 100)]


@pytest.mark.parametrize(
    ("length", "updates"),
    [
        (RunLength(3, None, 1, 7), 21),
        (RunLength(3, None, 2, 7), 12),
        (RunLength(3, None, 2, None), None),
        (RunLength(None, 20, 1, 7), 20),
        (RunLength(None, 20, 2, 7), 4 + 4 + 3),
        (RunLength(None, 20, 3, None), 7),
        (RunLength(None, 20, 3, 0), 7),
        (RunLength(3, None, 1, 0, exact=False), 3),
        (RunLength(None, 20, 2, 9, exact=False, epochs_done=1, steps_done=9, updates_done=5), 5 + 5 + 1),
    ],
    ids=str,
)
def test_updates_of_a_run(length: RunLength, updates: int | None) -> None:
    assert length.num_updates() == updates


@given(
    claim=st.integers(0, 60),
    true_steps=st.integers(1, 60),
    epochs=st.integers(1, 4),
    accumulate=st.integers(1, 4),
    schedule=st.sampled_from(["linear", "cosine"]),
)
def test_property_the_rate_is_never_0_and_after_an_epoch_the_true_one(
    claim: int, true_steps: int, epochs: int, accumulate: int, schedule: str
) -> None:
    estimated = rates(RunLength(epochs, None, accumulate, claim, exact=False), schedule, true_steps, epochs)
    true = rates(RunLength(epochs, None, accumulate, true_steps), schedule, true_steps, epochs)
    first = -(-true_steps // accumulate)
    assert all(rate > 0 for rate in estimated)
    assert estimated[first:] == pytest.approx(true[first:])
    if claim == true_steps:
        assert estimated == pytest.approx(true)


@pytest.mark.parametrize(
    ("length", "steps"),
    [
        (RunLength(3, None, 2, 7), 21),
        (RunLength(3, None, 1, None, exact=False), None),
        (RunLength(None, 20, 3, 7), 20),
        (RunLength(None, 20, 3, None, exact=False), 20),
    ],
)
def test_the_number_of_steps(length: RunLength, steps: int | None) -> None:
    assert length.num_steps() == steps


def test_the_number_of_steps_after_an_epoch_that_was_longer() -> None:
    length = RunLength(5, None, 1, 2, exact=False)
    assert length.num_steps() == 10
    length.end_epoch(epochs=1, steps=20, updates=20)
    assert length.num_steps() == 100

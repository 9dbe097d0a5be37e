"""A confirmation that contradicts the search: no certificate without the trials that its choice needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from loaderlab.tuning.answer import CERTIFIED, UNCONFIRMED, Answer
from loaderlab.tuning.candidate import SPDL, Branch, Candidate
from loaderlab.tuning.trial import Measured, Trial
from tests.tuning.simulated import NATIVE_ONLY, Simulated, linear
from tests.tuning.test_search import native
from tests.tuning.test_tuner import Tuned

SURE, DOUBTFUL = 0.5, 3.0  # half-widths of the interval of a starved share, percent


def planted(case: Simulated, search: Mapping[int, tuple[float, float]], confirmed: Mapping[int, float]) -> Simulated:
    """A case with given results by the number of makers; the others are those of the simulated machine. The step takes 1,000 samples/s.

    Args:
        search: starved share, percent, and half-width of its interval.
        confirmed: starved share, percent.
    """
    real = case.run

    def run(trial: Trial) -> Measured:
        measured, makers = real(trial), trial.candidate.makers
        share, half = measured.starved_pct, SURE
        if trial.round:
            share = confirmed[makers] + 0.1 * trial.round if makers in confirmed else share
        elif makers in search:
            share, half = search[makers]
        return replace(
            measured, rate=1000 - 10 * share, starved_pct=share, starved_interval=(share - half, share + half)
        )

    case.run = run  # type: ignore[method-assign]
    return case


def tried(answer: Answer) -> list[int]:
    """The numbers of makers of the search's trials, in order."""
    return [entry.candidate.makers for entry in answer.tried]


def test_fewer_than_a_neighbour_that_is_fed_are_tried() -> None:
    """1 worker was open in the search, and is fed in the confirmation: 0 workers are tried now, and feed the device too."""
    case = Simulated({NATIVE_ONLY: linear(1100)}, lambda _: 1000.0, current=native(2))
    answer = Tuned(planted(case, {1: (4.0, DOUBTFUL), 2: (0.5, SURE)}, {0: 1.0, 1: 1.0, 2: 0.5})).answer()
    assert tried(answer)[:2] == [2, 1]
    assert 0 in tried(answer)
    assert (answer.grade, answer.chosen) == (CERTIFIED, native(0))


def test_settings_between_a_starved_choice_and_the_next_one_are_tried() -> None:
    """3 workers were lucky in the search: 4 and 5 are tried before 6 are called the cheapest."""
    case = Simulated({NATIVE_ONLY: linear(230)}, lambda _: 1000.0, current=native(6))
    answer = Tuned(planted(case, {3: (1.0, SURE)}, {}), minutes=10).answer()
    assert {4, 5} <= {*tried(answer)}
    assert (answer.grade, answer.chosen, answer.neighbour) == (CERTIFIED, native(5), native(4))


def test_fewer_than_an_open_neighbour_are_tried() -> None:
    """0, 1, 3 (open) and 4 were tried, and 3 are fed in the confirmation."""
    case = Simulated({NATIVE_ONLY: linear(350)}, lambda _: 1000.0, current=native(0))
    answer = Tuned(planted(case, {3: (4.0, DOUBTFUL)}, {3: 1.0})).answer()
    assert (answer.grade, answer.chosen) == (CERTIFIED, native(3))
    assert 2 in tried(answer)
    assert answer.neighbour is not None
    assert answer.neighbour.makers == 2


def test_cheaper_settings_that_were_not_tried_are_named() -> None:
    """The time ends when the confirmation has contradicted the search."""
    case = Simulated({NATIVE_ONLY: linear(1100)}, lambda _: 1000.0, current=native(2))
    planted(case, {1: (4.0, DOUBTFUL), 2: (0.5, SURE)}, {1: 1.0, 2: 0.5})
    answer = Tuned(case, minutes=0.57).answer()
    assert 0 not in tried(answer)
    assert (answer.grade, answer.chosen) == (UNCONFIRMED, native(1))
    assert "cheaper settings were not all tried, because the time limit was reached" in answer.certificate


def test_more_makers_are_tried_if_none_is_fed_after_all() -> None:
    case = Simulated({NATIVE_ONLY: linear(400)}, lambda _: 1000.0, current=native(2))
    answer = Tuned(planted(case, {2: (1.0, SURE)}, {})).answer()
    assert answer.grade == CERTIFIED
    assert answer.chosen == native(3)


@pytest.mark.parametrize("seconds", range(10, 60, 4))
def test_nothing_is_claimed_before_more_makers_were_tried(seconds: int) -> None:
    case = Simulated({NATIVE_ONLY: linear(400)}, lambda _: 1000.0, current=native(2))
    answer = Tuned(planted(case, {2: (1.0, SURE)}, {}), minutes=seconds / 60).answer()
    assert answer.grade == (CERTIFIED if answer.chosen == native(3) and native(3) in answer.confirmed else UNCONFIRMED)


def test_another_loader_is_tried_again_if_it_could_be_cheaper_now() -> None:
    """SPDL was tried with 1 thread only, because 2 workers fed the device in the search."""
    case = Simulated({NATIVE_ONLY: linear(260), Branch(SPDL): linear(400)}, lambda _: 1000.0, current=native(2))
    answer = Tuned(planted(case, {2: (1.0, SURE)}, {}), minutes=10).answer()
    assert answer.grade == CERTIFIED
    assert answer.chosen is not None
    assert (answer.chosen.branch, answer.chosen.makers) == (Branch(SPDL), 3)


def test_fewer_forked_workers_may_be_enough() -> None:
    """Only the start method makes 2 spawned workers too slow; after 2 forked ones, 1 is tried too."""
    current = Candidate(makers=2, prefetch=2, persistent=True, start_method="spawn", pin_memory=True, side_stream=True)
    case = Simulated(
        {NATIVE_ONLY: lambda makers: 960.0 * makers if makers else 300.0},
        lambda _: 1000.0,
        current=current,
        epoch_steps=50,
        gap_ms=lambda candidate: 400.0 if candidate.start_method == "spawn" else 0.0,
    )
    answer = Tuned(case, minutes=10).answer()
    assert answer.grade == CERTIFIED
    assert answer.chosen == replace(current, makers=1, start_method="fork")


def test_a_cheaper_doubtful_setting_is_the_neighbour() -> None:
    """The settings now, not the cheaper ones that were closest in the search, may feed the device."""
    case = Simulated({NATIVE_ONLY: linear(350)}, lambda _: 1000.0, current=native(1))
    real = case.run

    def run(trial: Trial) -> Measured:
        measured = real(trial)
        if trial.candidate.makers == 1 and trial.round:
            return replace(measured, starved_pct=5.0 + 2 * (trial.round - 2))
        return measured

    case.run = run  # type: ignore[method-assign]
    answer = Tuned(case).answer()
    assert answer.chosen == native(3)
    assert answer.neighbour == native(1)
    assert answer.grade != CERTIFIED

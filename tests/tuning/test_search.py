"""The search on simulated machines with a known answer."""

from __future__ import annotations

import pytest

from loaderlab.tuning.candidate import DALI, RESIDENT, SPDL, Branch, Candidate
from loaderlab.tuning.limits import Machine
from loaderlab.tuning.trial import Measured, Trial, TrialFailed
from tests.tuning.simulated import GIB, NATIVE_ONLY, Simulated, linear


def native(makers: int, prefetch: int = 2) -> Candidate:
    if not makers:
        return Candidate(makers=0, pin_memory=True, side_stream=True)
    return Candidate(makers=makers, prefetch=prefetch, pin_memory=True, side_stream=True, persistent=True)


@pytest.mark.parametrize("needed", range(8))
@pytest.mark.parametrize("current", [0, 1, 3, 6, 12])
def test_the_fewest_workers_that_feed_the_device(needed: int, current: int) -> None:
    """From any current settings, with few trials."""
    demand = 1000.0
    alone = linear(demand / (needed - 0.4) if needed else 2 * demand)
    if needed == 1:
        alone = lambda makers: 1.5 * demand * makers if makers else 0.5 * demand  # noqa: E731
    case = Simulated({NATIVE_ONLY: alone}, lambda _: demand, current=native(current))
    search = case.searched()
    best = search.results.cheapest_fed()
    assert best is not None
    assert best.candidate.makers == needed
    assert len(case.ran) <= 6
    if needed:
        neighbour = search.results.neighbour(best.candidate)
        assert neighbour is not None
        assert neighbour.candidate.makers == needed - 1
        assert search.all_below_tried(best.candidate)


def test_a_lock_makes_more_workers_useless() -> None:
    case = Simulated({NATIVE_ONLY: linear(300, most=600)}, lambda _: 1000.0)
    search = case.searched()
    assert search.results.cheapest_fed() is None
    fastest = search.results.fastest()
    assert fastest is not None
    assert fastest.candidate.makers == 2
    assert len(case.ran) <= 9


def test_supply_rises_then_falls() -> None:
    rates = {0: 260.0, 1: 260.0, 2: 480.0, 3: 620.0, 4: 500.0}
    case = Simulated({NATIVE_ONLY: lambda makers: rates.get(makers, 300.0)}, lambda _: 590.0, current=native(8))
    best = case.searched().results.cheapest_fed()
    assert best is not None
    assert best.candidate.makers == 3


def test_memory_for_two_workers() -> None:
    machine = Machine(cores=8, memory_bytes=int(0.7 * GIB), memory_name="are the limit that was set")
    case = Simulated({NATIVE_ONLY: linear(300)}, lambda _: 1000.0, worker_mib=300.0, machine=machine)
    search = case.searched()
    assert max(trial.candidate.makers for trial in case.ran) == 2
    assert search.results.cheapest_fed() is None
    assert any("3 workers of 300 MiB" in entry.reason for entry in search.results.excluded)


def test_a_large_training_process_leaves_memory_for_two_workers() -> None:
    machine = Machine(cores=8, memory_bytes=3 * GIB, free_bytes=3 * GIB)
    case = Simulated(
        {NATIVE_ONLY: linear(300)}, lambda _: 1000.0, worker_mib=400.0, process_mib=2048.0, machine=machine
    )
    search = case.searched()
    assert max(trial.candidate.makers for trial in case.ran) == 2
    assert any("the training process of 2,048 MiB" in entry.reason for entry in search.results.excluded)


def test_settings_beyond_a_limit_are_not_chosen_because_they_are_used_now() -> None:
    machine = Machine(cores=8, memory_bytes=int(0.7 * GIB))
    case = Simulated({NATIVE_ONLY: linear(300)}, lambda _: 1000.0, worker_mib=300.0, machine=machine, current=native(4))
    search = case.searched()
    assert search.results.cheapest_fed() is None
    fastest = search.results.fastest()
    assert fastest is not None
    assert fastest.candidate.makers == 2
    assert [entry.candidate.makers for entry in search.results.excluded] == [3]


def test_a_worker_that_dies_costs_only_its_trial() -> None:
    case = Simulated({NATIVE_ONLY: linear(300)}, lambda _: 1000.0, dies_from=4)
    search = case.searched()
    assert [tried.error for tried in search.results.tried if tried.error] == ["its process was ended by SIGKILL"]
    fastest = search.results.fastest()
    assert fastest is not None
    assert fastest.candidate.makers == 3


def test_jitter_is_met_with_a_longer_queue_not_with_more_workers() -> None:
    starved = {2: 12.0, 4: 2.0, 8: 0.1}
    case = Simulated(
        {NATIVE_ONLY: linear(600)},
        lambda _: 1000.0,
        jitter=lambda candidate: starved.get(candidate.prefetch or 2, 0.0) if candidate.makers < 4 else 0.0,
    )
    search = case.searched()
    best = search.results.cheapest_fed()
    assert best is not None
    assert best.candidate == native(2, 4)
    neighbour = search.results.neighbour(best.candidate)
    assert neighbour is not None
    assert neighbour.candidate == native(2, 2)


def test_cores_are_a_limit_for_a_loader_that_computes() -> None:
    machine = Machine(cores=2, memory_bytes=8 * GIB)
    alone = lambda makers: 400.0 * min(2, max(1, makers))  # noqa: E731
    case = Simulated({NATIVE_ONLY: alone}, lambda _: 2000.0, cores_per_maker=1.0, machine=machine)
    search = case.searched()
    assert search.results.cheapest_fed() is None
    assert max(trial.candidate.makers for trial in case.ran) <= 3
    assert any("use all 2 cores" in entry.reason for entry in search.results.excluded)


def test_a_step_on_the_same_cores() -> None:
    """Each worker takes a core from the step, whose demand falls."""
    machine = Machine(cores=4, memory_bytes=8 * GIB)
    case = Simulated(
        {NATIVE_ONLY: linear(250)},
        lambda makers: 200.0 * max(1, 4 - makers),
        uses_host_cores=True,
        cores_per_maker=1.0,
        machine=machine,
        current=Candidate(makers=0),
        takes_copies=False,
    )
    best = case.searched().results.cheapest_fed()
    assert best is not None
    assert best.candidate.makers == 2


def test_threads_that_are_cheaper() -> None:
    branches = {NATIVE_ONLY: linear(300), Branch(SPDL): linear(600), Branch(DALI): linear(100)}
    case = Simulated(branches, lambda _: 1000.0)
    search = case.searched()
    best = search.results.cheapest_fed()
    assert best is not None
    assert (best.candidate.branch.backend, best.candidate.makers) == (SPDL, 2)
    assert sum(trial.candidate.branch.backend == DALI for trial in case.ran) == 1


def test_all_samples_on_the_device_need_no_workers() -> None:
    branches = {NATIVE_ONLY: linear(300), Branch(RESIDENT): lambda _: 1e6}
    case = Simulated(branches, lambda _: 1000.0, epoch_steps=100)
    best = case.searched().results.cheapest_fed()
    assert best is not None
    assert best.candidate == Candidate(Branch(RESIDENT))


def test_a_set_that_takes_long_to_load_is_not_kept_on_the_device() -> None:
    branches = {NATIVE_ONLY: linear(300), Branch(RESIDENT): lambda _: 1e6}
    case = Simulated(branches, lambda _: 1000.0, epoch_steps=10_000)
    search = case.searched()
    assert any("loading all samples would take 1,067 s" in entry.reason for entry in search.results.excluded)


@pytest.mark.parametrize("makers", [1, 2, 4])
def test_a_shorter_queue_than_now_is_cheaper(makers: int) -> None:
    """The settings now have a queue of 8, and the usual one is enough."""
    alone = lambda count: 1200.0 * count / makers if count else 500.0  # noqa: E731
    case = Simulated({NATIVE_ONLY: alone}, lambda _: 1000.0, current=native(makers, 8))
    search = case.searched()
    best = search.results.cheapest_fed()
    assert best is not None
    assert best.candidate == native(makers, 2)
    assert search.all_below_tried(best.candidate)
    assert not search.all_below_tried(native(makers, 16))


def test_settings_now_that_the_machine_cannot_hold_are_not_tried() -> None:
    case = Simulated({NATIVE_ONLY: linear(600)}, lambda _: 1000.0, current=native(500))
    search = case.searched()
    assert max(trial.candidate.makers for trial in case.ran) == 2
    best = search.results.cheapest_fed()
    assert best is not None
    assert best.candidate.makers == 2


def test_the_reason_against_the_settings_now_is_kept() -> None:
    machine = Machine(cores=8, memory_bytes=int(0.7 * GIB), max_makers=10)
    case = Simulated(
        {NATIVE_ONLY: linear(200)}, lambda _: 1000.0, worker_mib=300.0, machine=machine, current=native(12)
    )
    assert [(entry.candidate.makers, entry.reason[:18]) for entry in case.searched().results.excluded] == [
        (12, "the largest number"),
        (3, "3 workers of 300 M"),
    ]


def test_a_long_queue_that_dies_does_not_exclude_the_usual_one() -> None:
    """2 workers are too few, and 3 die only with a queue of 4."""
    case = Simulated(
        {NATIVE_ONLY: linear(600)},
        lambda _: 1000.0,
        jitter=lambda candidate: 12.0 if candidate.makers == 2 else 0.0,
    )
    real = case.run

    def run(trial: Trial) -> Measured:
        if trial.candidate.makers == 2 and (trial.candidate.prefetch or 0) >= 4:
            raise TrialFailed("its process was ended by SIGKILL")
        return real(trial)

    case.run = run  # type: ignore[method-assign]
    best = case.searched().results.cheapest_fed()
    assert best is not None
    assert best.candidate == native(3)


def test_a_fed_device_is_reported_and_cheaper_settings_are_looked_for() -> None:
    case = Simulated({NATIVE_ONLY: linear(2000)}, lambda _: 1000.0, current=native(4))
    search = case.searched()
    assert search.notes[0].startswith("the first trial, with 4 workers, was fed")
    best = search.results.cheapest_fed()
    assert best is not None
    assert best.candidate.makers == 0


def test_copies_and_gaps_change_what_costs_nothing() -> None:
    current = Candidate(makers=2, prefetch=2, pin_memory=False, side_stream=False, persistent=False)
    case = Simulated(
        {NATIVE_ONLY: linear(600)},
        lambda _: 1000.0,
        current=current,
        epoch_steps=50,
        delivery_pct=lambda candidate: 0.0 if candidate.side_stream else 8.0,
        gap_ms=lambda candidate: 0.0 if candidate.persistent else 400.0,
    )
    best = case.searched().results.cheapest_fed()
    assert best is not None
    assert best.candidate == native(2)


def test_the_first_trial_that_dies_ends_the_search() -> None:
    case = Simulated({NATIVE_ONLY: linear(600)}, lambda _: 1000.0, dies_from=0)
    search = case.searched()
    assert len(search.results.tried) == 1
    assert search.results.tried[0].error
    assert search.results.fastest() is None

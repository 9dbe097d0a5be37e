"""Predicted rates against arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loaderlab.tuning.answer import Predicted
from loaderlab.tuning.candidate import RESIDENT, Branch, Candidate
from loaderlab.tuning.lost import FED, NOT_FED, OPEN, gap_share, grade, lost
from loaderlab.tuning.prediction import Model, along, supply
from loaderlab.tuning.trial import Facts, Measured

FACTS = Facts(Candidate(), [Branch()], 1000, 32, uses_host_cores=False)
RUN = Measured(rate=100.0, starved_pct=50.0, starved_interval=(48.0, 52.0), step_ms=20.0, num_steps=100)


def test_supply_follows_the_known_counts() -> None:
    assert supply({}, 3) is None
    assert supply({2: 200.0}, 1) == 100.0
    assert supply({1: 100.0}, 4) == 400.0
    assert supply({1: 100.0, 3: 260.0}, 2) == 180.0
    assert supply({1: 100.0, 3: 260.0}, 5) == 420.0  # 80 for each one more
    assert supply({1: 100.0, 2: 250.0}, 4) == 500.0  # at most proportional
    assert supply({1: 100.0, 3: 115.0}, 8) == 115.0  # saturated
    assert supply({1: 300.0, 2: 200.0}, 4) == 200.0
    assert supply({1: 100.0}, 8, most=350.0) == 350.0
    assert supply({1: 100.0, 4: 390.0}, 4, most=350.0) == 390.0  # a measured rate counts more than an estimate


def test_along() -> None:
    points = {1: 10.0, 3: 30.0}
    assert [along(points, at) for at in (0, 1, 2, 3, 9)] == [10.0, 10.0, 20.0, 30.0, 30.0]


def test_a_device_of_its_own_takes_the_ceiling() -> None:
    model = Model(FACTS, cores=4)
    assert model.predict(Candidate(makers=2, prefetch=2)) is None
    model.learn(Candidate(makers=1, prefetch=2), replace(RUN, ceiling=400.0, contended=400.0, loader_alone=150.0))
    assert model.predict(Candidate(makers=2, prefetch=2)) == Predicted(300.0, pytest.approx(25.0))  # type: ignore[arg-type]
    assert model.predict(Candidate(makers=3, prefetch=2)) == Predicted(400.0, 0.0)
    assert model.predict(Candidate(Branch(RESIDENT))) == Predicted(400.0, 0.0)


def test_more_workers_than_the_cores_can_feed_are_not_expected_to_help() -> None:
    """A script's loader is not measured alone: the CPU time of the whole run limits what is predicted."""
    model = Model(FACTS, cores=2)
    model.learn(Candidate(makers=1, prefetch=2), replace(RUN, starved_pct=90.0, cpu_s_per_sample=0.012))
    model.learn(Candidate(makers=2, prefetch=2), replace(RUN, rate=150.0, starved_pct=85.0, cpu_s_per_sample=0.0125))
    assert model.supply(Branch(), 64) == pytest.approx(2 / 0.012)
    model.learn(Candidate(makers=2, prefetch=2), replace(RUN, rate=150.0, cpu_s_per_sample=0.001))
    assert model.supply(Branch(), 12) == 650.0  # it sleeps
    assert model.core_s_per_sample(Branch()) == 0.001


def test_without_workers_the_host_loads_and_queues() -> None:
    """32 samples take 32 ms to load and 8 ms to queue: 800/s."""
    model = Model(FACTS, cores=4)
    model.learn(Candidate(), replace(RUN, ceiling=900.0, loader_alone=1000.0, host_ms=8.0))
    predicted = model.predict(Candidate())
    assert predicted is not None
    assert predicted.rate == pytest.approx(800.0)
    assert predicted.starved_pct == pytest.approx(100 * (1 - 800 / 900))


def test_a_fed_run_does_not_show_how_long_the_host_works() -> None:
    model = Model(FACTS, cores=4)
    model.learn(Candidate(), replace(RUN, starved_pct=0.0, ceiling=900.0, loader_alone=1000.0, host_ms=35.0))
    assert model.predict(Candidate()) == Predicted(900.0, 0.0)


def test_a_step_on_the_hosts_cores_alternates_with_loading() -> None:
    model = Model(replace(FACTS, uses_host_cores=True), cores=4)
    model.learn(Candidate(), replace(RUN, ceiling=300.0, torch_threads=4, loader_alone=100.0))
    predicted = model.predict(Candidate())
    assert predicted is not None
    assert predicted.rate == pytest.approx(75.0)  # 1 / (1/300 + 1/100)
    assert predicted.starved_pct == pytest.approx(75.0)


def test_the_ceiling_for_the_threads_that_a_count_leaves() -> None:
    model = Model(replace(FACTS, uses_host_cores=True), cores=4)
    model.learn(
        Candidate(makers=1, prefetch=2),
        replace(RUN, ceiling=300.0, torch_threads=3, ceiling_by_threads={1: 100.0}, loader_alone=1000.0),
    )
    assert [model.demand(makers) for makers in (0, 1, 2, 3, 4)] == [300.0, 300.0, 200.0, 100.0, 100.0]


def test_the_loaders_work_slows_the_step_in_proportion() -> None:
    """At its full rate of 400/s the loader slows the step by a fifth: at half of it, by a tenth."""
    model = Model(FACTS, cores=4)
    model.learn(Candidate(makers=2, prefetch=2), replace(RUN, ceiling=200.0, contended=160.0, loader_alone=400.0))
    predicted = model.predict(Candidate(makers=2, prefetch=2))
    assert predicted is not None
    assert predicted.rate == pytest.approx(180.0)
    assert predicted.starved_pct == pytest.approx(0.0)


def test_without_probes_starved_runs_show_the_supply() -> None:
    model = Model(FACTS, cores=4)
    model.learn(Candidate(makers=1, prefetch=2), RUN)
    assert model.demand(1) == pytest.approx(200.0)
    assert model.supply(Branch(), 2) == pytest.approx(200.0)
    assert not model.knows_alone


def test_cores_limit_a_loader_that_computes() -> None:
    model = Model(FACTS, cores=2)
    model.learn(Candidate(makers=1, prefetch=2), replace(RUN, ceiling=900.0, loader_alone=200.0, loader_cores=1.0))
    assert model.cores_per_maker(Branch()) == pytest.approx(1.0)
    assert model.supply(Branch(), 4) == pytest.approx(400.0)


def test_lost_counts_ends_of_epochs_by_their_real_number() -> None:
    """A gap of 200 ms after every 10 steps of 20 ms is half of the time, after every 90 a tenth."""
    run = replace(RUN, starved_pct=10.0, starved_interval=(-1.0, 20.0), gap_ms=200.0)
    assert gap_share(run, 10) == pytest.approx(0.5)
    share, interval = lost(run, 90)
    assert share == pytest.approx(19.0)
    assert interval == pytest.approx((10.0, 28.0))
    assert lost(replace(run, gap_ms=None), 90) == (10.0, (0.0, 20.0))
    assert lost(run, None) == (10.0, (0.0, 20.0))


def test_grades_follow_the_interval() -> None:
    assert [grade(interval, 5.0) for interval in ((0.0, 4.9), (5.0, 9.0), (4.0, 6.0), (0.0, 5.0), None)] == [
        FED,
        NOT_FED,
        OPEN,
        OPEN,
        OPEN,
    ]

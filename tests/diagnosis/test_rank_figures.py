"""The metrics of a job: sums of rates, the job's own starved share, medians and worst values of the others."""

from __future__ import annotations

import pytest

from loaderlab import metrics
from loaderlab.diagnosis.rank_figures import job_figures
from loaderlab.report.run_page import figure_rows

RANKS = [
    {metrics.RATE: 100.0, metrics.LOADER_RATE: 400.0, metrics.WAIT_MS: 1.0, metrics.STARVED_PCT: 5.0},
    {metrics.RATE: 100.0, metrics.LOADER_RATE: 200.0, metrics.WAIT_MS: 7.0, metrics.STARVED_PCT: 35.0},
    {metrics.RATE: 100.0, metrics.LOADER_RATE: 300.0, metrics.WAIT_MS: 2.0, metrics.STARVED_PCT: 10.0},
]
JOB = {metrics.RATE: 299.0, metrics.STARVED_PCT: 30.0, metrics.WAIT_MS: 7.0, metrics.VAL_LOSS: 0.5}


def worst(name: str) -> str:
    other = metrics.worst_of(name)
    assert other is not None
    return other


def test_a_job_of_three_ranks() -> None:
    assert job_figures(RANKS, JOB) == {
        metrics.RATE: 299.0,
        metrics.LOADER_RATE: 900.0,
        worst(metrics.LOADER_RATE): 200.0,
        metrics.WAIT_MS: 2.0,
        worst(metrics.WAIT_MS): 7.0,
        metrics.STARVED_PCT: 30.0,
        worst(metrics.STARVED_PCT): 35.0,
        metrics.VAL_LOSS: 0.5,
        metrics.NUM_RANKS: 3,
    }


def test_a_sum_without_the_value_of_a_rank_is_absent() -> None:
    ranks = [RANKS[0], {name: value for name, value in RANKS[1].items() if name != metrics.LOADER_RATE}]
    figures = job_figures(ranks, JOB)
    assert metrics.LOADER_RATE not in figures
    assert figures[worst(metrics.LOADER_RATE)] == 400.0


def test_values_that_are_not_finite_do_not_count() -> None:
    ranks = [{metrics.WAIT_MS: 1.0, metrics.RATE: 1.0}, {metrics.WAIT_MS: float("nan"), metrics.RATE: 1.0}]
    assert job_figures(ranks, {}) == {
        metrics.RATE: 2.0,
        metrics.WAIT_MS: 1.0,
        worst(metrics.WAIT_MS): 1.0,
        metrics.NUM_RANKS: 2,
    }


def test_skipped_samples_are_summed() -> None:
    assert job_figures([{metrics.SKIPPED_SAMPLES: 2.0}] * 4, {})[metrics.SKIPPED_SAMPLES] == 8


def test_the_share_of_the_job_is_never_that_of_a_rank() -> None:
    """A job without steps has no starved share, even if its ranks have one."""
    assert metrics.STARVED_PCT not in job_figures(RANKS, {})


@pytest.mark.parametrize("name", [metrics.HEADROOM_X, metrics.TRAIN_LOSS])
def test_metrics_that_the_job_may_have(name: str) -> None:
    ranks = [{name: 1.0}, {name: 2.0}, {name: 9.0}]
    assert job_figures(ranks, {})[name] == 2.0
    assert job_figures(ranks, {name: 3.0})[name] == 3.0


@pytest.mark.parametrize("name", [metrics.RATE, metrics.TRAIN_LOSS, metrics.WINDOW_S, metrics.VAL_LOSS])
def test_metrics_without_a_worst_rank(name: str) -> None:
    assert metrics.worst_of(name) is None


def test_a_worst_rank_has_the_unit_and_the_direction_of_its_metric() -> None:
    entry = metrics.metric(worst(metrics.LOADER_RATE))
    assert (entry.name, entry.unit) == (f"worst_rank/{metrics.LOADER_RATE}", "samples/s")
    assert metrics.higher_is_better(entry.name)
    assert entry.label == "loader alone; worst rank"


def test_the_page_shows_the_worst_rank_next_to_the_value() -> None:
    rows = dict(figure_rows(job_figures(RANKS, JOB)))
    assert rows["loader alone"] == "900 samples/s (worst rank 200)"
    assert rows["device starved of data"] == "30.0 % of the window"  # the job may lose more than any rank
    assert dict(figure_rows(JOB))["device starved of data"] == "30.0 % of the window"


def test_the_job_may_have_more_ranks_than_those_with_metrics() -> None:
    assert job_figures(RANKS, JOB | {metrics.NUM_RANKS: 4.0})[metrics.NUM_RANKS] == 4

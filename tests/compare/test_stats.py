"""Intervals over runs: figures that a child can verify, and what they do on thousands of simulated sweeps."""

from __future__ import annotations

import math

import numpy as np
import pytest

from loaderlab.compare.stats import Ratio, ratio, repeats_for, spread

SWEEPS = 2000


def test_equal_ratios_have_no_width() -> None:
    found = ratio([(200, 100), (220, 110), (180, 90)])
    assert (found.value, found.low, found.high) == pytest.approx((2, 2, 2))
    assert found.shown
    assert not found.noisy


def test_the_interval_of_a_textbook() -> None:
    """Log ratios 0.1, 0.2, 0.3: mean 0.2, deviation 0.1, t with 2 degrees 4.3027, so 0.2 ± 0.2484."""
    found = ratio([(math.exp(value), 1) for value in (0.1, 0.2, 0.3)])
    assert found.value == pytest.approx(math.exp(0.2))
    assert found.low == pytest.approx(math.exp(0.2 - 0.24842), rel=1e-4)
    assert found.high == pytest.approx(math.exp(0.2 + 0.24842), rel=1e-4)
    assert not found.shown
    assert found.noisy


def test_pairs_take_out_what_a_round_has_in_common() -> None:
    """Each round half as fast as the one before: the arms' own spread is wide, their ratio is exact."""
    arms = [(110.0, 100.0), (55.0, 50.0), (27.5, 25.0)]
    found, own = ratio(arms), spread([first for first, _ in arms])
    assert (found.low, found.high) == pytest.approx((1.1, 1.1))
    assert own is not None
    assert own[1] / own[0] > 10


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_pairs_claim_nothing(count: int) -> None:
    found = ratio([(2.0, 1.0)] * count)
    assert (found.value, found.low, found.high, found.shown, found.noisy) == (2, None, None, False, False)
    assert spread([1.0] * count) is None


@pytest.mark.parametrize("pairs", [[], [(1.0, 0.0)], [(-1.0, 2.0)]])
def test_what_has_no_ratio_is_refused(pairs: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        ratio(pairs)


def test_repeats_for() -> None:
    assert repeats_for(0.0) == 3
    assert repeats_for(1.0, difference=1.0001) is None
    for deviation in (0.02, 0.05, 0.1):
        count = repeats_for(deviation)
        assert count is not None
        made = ratio(_with_deviation(deviation, count))
        assert made.high is not None
        assert made.high / made.value <= 1.05 + 1e-9
        if count > 3:
            fewer = ratio(_with_deviation(deviation, count - 1))
            assert fewer.high is not None
            assert fewer.high / fewer.value > 1.05


def _with_deviation(deviation: float, count: int) -> list[tuple[float, float]]:
    logs = np.linspace(-1, 1, count)
    return [(math.exp(value), 1.0) for value in logs * deviation / logs.std(ddof=1)]


def simulated(arms: list[float], repeats: int, noise: float, confidence: float = 0.95) -> list[list[Ratio]]:
    """Sweeps of arms with these true rates, each run with its own noise and each round with one of its own: for each
    sweep the ratios of the others to the first arm."""
    rng = np.random.default_rng(20261123)
    rounds = np.exp(rng.normal(0, 0.2, (SWEEPS, repeats, 1)))
    rates = np.array(arms) * rounds * np.exp(rng.normal(0, noise, (SWEEPS, repeats, len(arms))))
    return [
        [ratio([(row[arm], row[0]) for row in sweep], confidence) for arm in range(1, len(arms))] for sweep in rates
    ]


@pytest.mark.parametrize("repeats", [3, 5])
def test_arm_against_itself_gives_a_false_alarm_in_at_most_six_percent(repeats: int) -> None:
    alarms = sum(found.shown for (found,) in simulated([1000, 1000], repeats, 0.03))
    assert alarms / SWEEPS <= 0.06
    assert alarms / SWEEPS >= 0.04  # it is a test at 5 %, not one that never speaks


def test_ten_percent_is_found_with_five_repeats_and_three_percent_of_noise() -> None:
    sweeps = simulated([1000, 1100], 5, 0.03)
    found = sum(entry.shown and entry.value > 1 for (entry,) in sweeps)
    assert found / SWEEPS >= 0.9
    inside = sum(entry.low <= 1.1 <= entry.high for (entry,) in sweeps if entry.low and entry.high)
    assert 0.94 <= inside / SWEEPS <= 0.96


def test_the_best_of_many_equal_arms_is_not_called_faster() -> None:
    """At the level for a choice among five, the fastest of five equal arms is seldom called so; at 95 % each, often."""
    arms = [1000.0] * 5

    def alarms(confidence: float) -> float:
        sweeps = simulated(arms, 5, 0.03, confidence)
        return sum(max(row, key=lambda entry: entry.value).shown for row in sweeps) / SWEEPS

    assert alarms(1 - 0.05 / 4) <= 0.06
    assert alarms(0.95) > 0.06

"""Intervals over runs: hand-checked values, and error rates on thousands of simulated sweeps."""

from __future__ import annotations

import math

import numpy as np
import pytest

from loaderlab.compare.stats import Ratio, ratio, repeats_for, spread

SWEEPS = 2000


def test_equal_ratios_have_no_width() -> None:
    gain = ratio([(200, 100), (220, 110), (180, 90)])
    assert (gain.value, gain.low, gain.high) == pytest.approx((2, 2, 2))
    assert gain.shown
    assert not gain.noisy


def test_an_interval_computed_by_hand() -> None:
    """Log ratios 0.1, 0.2, 0.3: mean 0.2, deviation 0.1, t with 2 degrees 4.3027, so 0.2 ± 0.2484."""
    gain = ratio([(math.exp(value), 1) for value in (0.1, 0.2, 0.3)])
    assert gain.value == pytest.approx(math.exp(0.2))
    assert gain.low == pytest.approx(math.exp(0.2 - 0.24842), rel=1e-4)
    assert gain.high == pytest.approx(math.exp(0.2 + 0.24842), rel=1e-4)
    assert not gain.shown
    assert gain.noisy


def test_pairing_removes_differences_between_repeats() -> None:
    """Each repeat is half as fast as the previous one: the arms' own spread is wide, their ratio is exact."""
    arms = [(110.0, 100.0), (55.0, 50.0), (27.5, 25.0)]
    gain, own = ratio(arms), spread([first for first, _ in arms])
    assert (gain.low, gain.high) == pytest.approx((1.1, 1.1))
    assert own is not None
    assert own[1] / own[0] > 10


@pytest.mark.parametrize("count", [1, 2])
def test_no_claim_is_made_from_fewer_than_three_pairs(count: int) -> None:
    gain = ratio([(2.0, 1.0)] * count)
    assert (gain.value, gain.low, gain.high, gain.shown, gain.noisy) == (2, None, None, False, False)
    assert spread([1.0] * count) is None


@pytest.mark.parametrize("pairs", [[], [(1.0, 0.0)], [(-1.0, 2.0)]])
def test_pairs_without_a_ratio_are_rejected(pairs: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        ratio(pairs)


def test_repeats_for() -> None:
    assert repeats_for(0.0) == 3
    assert repeats_for(1.0, difference=1.0001) is None
    for deviation in (0.02, 0.05, 0.1):
        count = repeats_for(deviation)
        assert count is not None
        enough = ratio(_with_deviation(deviation, count))
        assert enough.high is not None
        assert enough.high / enough.value <= 1.05 + 1e-9
        if count > 3:
            fewer = ratio(_with_deviation(deviation, count - 1))
            assert fewer.high is not None
            assert fewer.high / fewer.value > 1.05


def _with_deviation(deviation: float, count: int) -> list[tuple[float, float]]:
    logs = np.linspace(-1, 1, count)
    return [(math.exp(value), 1.0) for value in logs * deviation / logs.std(ddof=1)]


def simulated(arms: list[float], repeats: int, noise: float, confidence: float = 0.95) -> list[list[Ratio]]:
    """For each simulated sweep, the ratios of the other arms to the first. ``arms``: their true rates. Each run has its own
    noise, and so has each repeat."""
    rng = np.random.default_rng(20261123)
    of_repeats = np.exp(rng.normal(0, 0.2, (SWEEPS, repeats, 1)))
    rates = np.array(arms) * of_repeats * np.exp(rng.normal(0, noise, (SWEEPS, repeats, len(arms))))
    return [
        [ratio([(row[arm], row[0]) for row in sweep], confidence) for arm in range(1, len(arms))] for sweep in rates
    ]


@pytest.mark.parametrize("repeats", [3, 5])
def test_equal_arms_give_false_alarms_in_at_most_six_percent(repeats: int) -> None:
    alarms = sum(gain.shown for (gain,) in simulated([1000, 1000], repeats, 0.03))
    assert alarms / SWEEPS <= 0.06
    assert alarms / SWEEPS >= 0.04  # a test at 5 % must not be much too strict either


def test_ten_percent_is_shown_with_five_repeats_and_three_percent_noise() -> None:
    sweeps = simulated([1000, 1100], 5, 0.03)
    num_shown = sum(gain.shown and gain.value > 1 for (gain,) in sweeps)
    assert num_shown / SWEEPS >= 0.9
    inside = sum(gain.low <= 1.1 <= gain.high for (gain,) in sweeps if gain.low and gain.high)
    assert 0.94 <= inside / SWEEPS <= 0.96


def test_the_best_of_many_equal_arms_is_not_called_faster() -> None:
    """With the confidence level for a choice among five, a false alarm is rare; at 95 % for each arm it is frequent."""
    arms = [1000.0] * 5

    def alarms(confidence: float) -> float:
        sweeps = simulated(arms, 5, 0.03, confidence)
        return sum(max(row, key=lambda entry: entry.value).shown for row in sweeps) / SWEEPS

    assert alarms(1 - 0.05 / 4) <= 0.06
    assert alarms(0.95) > 0.06

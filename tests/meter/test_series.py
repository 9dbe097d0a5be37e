"""Confidence intervals and change points: exact on simple numbers, with the stated coverage on simulated ones."""

from __future__ import annotations

import numpy as np
import pytest

from loaderlab.meter.series import change_point, ratio_interval


def test_interval_of_identical_steps() -> None:
    assert ratio_interval([3.0] * 40, [10.0] * 40) == pytest.approx((0.3, 0.3))


def test_interval_of_three_blocks() -> None:
    """Shares 0.1, 0.2, 0.3 of equal steps: mean 0.2, standard error 0.1 / sqrt(3), Student's t (2 df) is 4.303."""
    low, high = ratio_interval([1.0, 2.0, 3.0], [10.0] * 3) or (0.0, 0.0)
    assert (low, high) == pytest.approx((0.2 - 4.3027 * 0.057735, 0.2 + 4.3027 * 0.057735), rel=1e-4)


def test_too_few_for_an_interval() -> None:
    assert ratio_interval([1.0, 2.0], [10.0] * 2) is None
    assert ratio_interval([1.0] * 20, [10.0] * 20, period=8) is None
    assert ratio_interval([], []) is None


def correlated(rng: np.random.Generator, count: int, memory: float) -> np.ndarray:
    """Waits of about 3 of 10 ms, each correlated with the previous one."""
    noise = np.empty(count)
    noise[0] = rng.normal()
    for index in range(1, count):
        noise[index] = memory * noise[index - 1] + np.sqrt(1 - memory**2) * rng.normal()
    return np.clip(3 + 1.5 * noise, 0, None)


def test_the_interval_has_its_stated_coverage() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    truth = correlated(np.random.default_rng(1), 200_000, 0.5)
    share = truth.sum() / (7 + truth).sum()
    for _ in range(400):
        waits = correlated(rng, 300, 0.5)
        low, high = ratio_interval(waits.tolist(), (7 + waits).tolist()) or (0.0, 0.0)
        covered += low <= share <= high
    assert 0.91 <= covered / 400 <= 0.99


@pytest.mark.parametrize("before", [100, 130])
def test_an_onset_is_dated(before: int) -> None:
    waits = [0.0] * before + [10.0] * 100
    change = change_point(waits, [10.0 + wait for wait in waits])
    assert change is not None
    assert (change.index, change.before, change.after) == (before, 0.0, 0.5)


def test_an_onset_under_noise() -> None:
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(50):
        waits = np.concatenate([rng.exponential(0.5, 100), rng.exponential(6.0, 150)])
        change = change_point(waits.tolist(), (10 + waits).tolist())
        assert change is not None
        errors.append(abs(change.index - 100))
    assert np.median(errors) <= 3
    assert max(errors) <= 40


def test_regular_stalls_are_no_change() -> None:
    for period in (2, 3, 7, 10):
        waits = [50.0 if index % period == period - 1 else 0.0 for index in range(211)]
        assert change_point(waits, [10.0 + wait for wait in waits]) is None


def test_false_alarms_are_rare() -> None:
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(400):
        waits = correlated(rng, 200, 0.5)
        alarms += change_point(waits.tolist(), (7 + waits).tolist()) is not None
    assert alarms / 400 <= 0.03


def test_a_small_change_is_not_reported() -> None:
    waits = [1.0] * 100 + [1.4] * 100
    assert change_point(waits, [10.0 + wait for wait in waits]) is None

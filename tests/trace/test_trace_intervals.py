"""Sets of time: exact on small examples, and equal to counting single moments on random ones."""

from __future__ import annotations

import numpy as np
import pytest

from loaderlab.trace import intervals
from loaderlab.trace.intervals import Growing, Union, join, union


def made(*pairs: tuple[float, float]) -> Union:
    return union(np.array([start for start, _ in pairs], float), np.array([end for _, end in pairs], float))


def listed(moments: Union) -> list[tuple[float, float]]:
    return list(zip(moments.starts.tolist(), moments.ends.tolist(), strict=True))


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([], []),
        ([(1, 2)], [(1, 2)]),
        ([(3, 4), (1, 2)], [(1, 2), (3, 4)]),
        ([(1, 3), (2, 5)], [(1, 5)]),
        ([(1, 9), (2, 3), (4, 5)], [(1, 9)]),
        ([(1, 2), (2, 3)], [(1, 3)]),
        ([(1, 2), (1, 2)], [(1, 2)]),
        ([(0, 9), (1, 2), (10, 11)], [(0, 9), (10, 11)]),
    ],
)
def test_union(pairs: list[tuple[float, float]], expected: list[tuple[float, float]]) -> None:
    assert listed(made(*pairs)) == expected


def test_covered_is_clipped_to_the_window() -> None:
    moments = made((2, 4), (6, 10))
    windows = [(0, 2, 0), (0, 3, 1), (3, 7, 2), (2, 10, 6), (4, 6, 0), (9, 20, 1), (11, 12, 0), (7, 8, 1)]
    starts, ends, expected = (np.array(column, float) for column in zip(*windows, strict=True))
    assert moments.covered(starts, ends).tolist() == expected.tolist()
    assert made().covered(starts, ends).tolist() == [0] * len(windows)


def test_an_interval_of_length_0_touches_without_covering() -> None:
    moments = made((3, 3))
    start, end = np.array([2.0]), np.array([4.0])
    assert moments.touches(start, end)
    assert not moments.touches(start - 9, end - 9)
    assert moments.covered(start, end).tolist() == [0]


def test_equal_to_counting_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "PENDING", 7)  # so that a growing set is joined many times
    rng = np.random.default_rng(0)
    for _ in range(50):
        grids, sets = [], []
        for _ in range(2):
            grid, growing = np.zeros(200, bool), Growing()
            for start, length in zip(rng.integers(0, 180, 40), rng.integers(0, 12, 40), strict=True):
                grid[start : start + length] = True
                growing.add(float(start), float(start + length))
            grids.append(grid)
            sets.append(growing.union())
        starts = rng.integers(0, 150, 9)
        ends = starts + rng.integers(0, 50, 9)
        for moments, grid in [(sets[0], grids[0]), (sets[1], grids[1]), (join(*sets), grids[0] | grids[1])]:
            counted = [int(grid[start:end].sum()) for start, end in zip(starts, ends, strict=True)]
            assert moments.covered(starts.astype(float), ends.astype(float)).tolist() == counted
            assert np.all(moments.starts[1:] > moments.ends[:-1])

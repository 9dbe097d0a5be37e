"""The rounds of the benchmarks that compare arms: how they are divided among the starts, and their progress."""

from __future__ import annotations

import pytest

from benchmarks.harness import loader_arms, turns
from benchmarks.harness.turns import Arm, Served, Turn
from benchmarks.loader_throughput import Progress


@pytest.mark.parametrize(
    ("rounds", "starts", "ranges"),
    [
        (15, 3, [range(5), range(5, 10), range(10, 15)]),
        (7, 2, [range(3), range(3, 7)]),
        (4, 1, [range(4)]),
        (1, 3, [range(1)]),
    ],
)
def test_every_round_belongs_to_one_start(
    rounds: int, starts: int, ranges: list[range], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[range] = []
    monkeypatch.setattr(turns, "_take_rounds", lambda _arms, numbers, *_: calls.append(numbers))
    arm = Arm("fast", lambda: Served(iter(()), 1), ())
    assert turns.take_turns([arm], rounds, 1.0, starts) == {"fast": []}
    assert calls == ranges


def test_progress_says_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(4)
    for number in range(1, 5):
        progress(number)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"  round {number} of 4" for number in range(1, 5)]
    assert lines[-1].endswith("about 0.0 min left")


@pytest.mark.parametrize(
    ("ratios", "outcome"),
    [
        ([1.0, 1.01, 0.99, 1.0], "reached"),
        ([0.96, 0.961, 0.959, 0.96], "NOT reached"),
        ([0.8, 1.2, 0.9, 1.1], "NOT reached"),  # the lower end counts
    ],
)
def test_dali_must_reach_its_target_with_the_lower_end(ratios: list[float], outcome: str) -> None:
    measured = {
        "dali": [Turn(100 * ratio, 1.0) for ratio in ratios],
        "bare DALI": [Turn(100.0, 1.0) for _ in ratios],
    }
    (line,) = loader_arms.target_lines(measured)
    assert f"target, lower end >= 0.97: {outcome} by" in line

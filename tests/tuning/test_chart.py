"""The picture of an answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from loaderlab.report.chart_style import in_style
from loaderlab.tuning.answer import Answer
from loaderlab.tuning.chart import as_svg, draw, figure
from loaderlab.tuning.chart_places import caption, is_drawn, places
from tests.tuning import answers
from tests.tuning.answers import ANSWERS, workers


def axes(answer: Answer) -> tuple[Axes, Axes]:
    with in_style():
        rates, shares = figure(answer).axes
    return rates, shares


def lines(axis: Axes) -> dict[str, Any]:
    """The points of all lines with the same label."""
    points: dict[str, Any] = {}
    for line in axis.lines:
        x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
        points.setdefault(str(line.get_label()), []).extend(zip(x.tolist(), y.tolist(), strict=True))
    return points


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=list(ANSWERS))
def test_each_answer_is_drawn(answer: Answer, tmp_path: Path) -> None:
    draw(answer, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert as_svg(answer, "a title").startswith('<svg role="img" aria-label="a title"')
    assert caption(answer)


def test_what_is_drawn() -> None:
    rates, shares = map(lines, axes(answers.certified))
    assert [y for _, y in rates["predicted before the trial"]] == [735, 2050, 1470]
    assert [y for _, y in shares["predicted before the trial"]] == [64, 0, 28]
    line = rates["predicted from all trials"]
    assert line == [(1, 735), (2, 1470), (3, 2050), (4, 2050), (5, 2050), (6, 2050), (7, 2050)]
    assert shares["predicted from all trials"][1:3] == [(2, pytest.approx(28.3, abs=0.1)), (3, 0)]
    assert rates["what the step takes"][0] == (0, 2050)
    assert rates["chosen"] == [(3, 2031)]
    assert shares["chosen"] == [(3, 0.42)]
    assert [y for _, y in shares["confirmation, n = 3, 95 % CI"]] == [0.42, 29.6, 0.31]
    assert [y for _, y in shares["search, one run"]] == [0.3, 64.8, 0.4, 30.3, 29.1]
    assert {y for _, y in shares["limit of a fed device"]} == {5}


def test_intervals_of_the_confirmation_are_drawn() -> None:
    _, shares = axes(answers.certified)
    ends = [segment[:, 1].tolist() for bars in shares.collections for segment in bars.get_segments()]  # type: ignore[attr-defined]
    assert [np.round(pair, 6).tolist() for pair in ends] == [[0.08, 0.93], [27.1, 32.0], [0.05, 0.61]]


def test_the_memory_limit_is_shaded_if_it_is_near() -> None:
    rates, _ = axes(answers.certified)
    (patch,) = rates.patches
    assert patch.get_extents().width > 0
    assert patch.get_label() == "does not fit into memory"
    assert "more than 6 would not fit" in caption(answers.certified)
    far = replace(answers.certified, memory_limit_makers=40)
    assert not axes(far)[0].patches
    assert "fit" not in caption(far)


def test_a_trial_without_a_result_is_marked_and_has_no_starved_share() -> None:
    rates, shares = map(lines, axes(answers.nothing_feeds))
    assert len(rates["the trial died"]) == 1
    assert "the trial died" not in shares


def test_each_branch_has_its_own_lines() -> None:
    rates, _ = axes(answers.already_fed)
    assert [y for _, y in lines(rates)["predicted before the trial, spdl"]] == [2050]
    assert lines(rates)["predicted from all trials, spdl"] == [(1, 1080), (2, 2050), (3, 2050)]
    assert lines(rates)["predicted from all trials, native"][0] == (1, 735)


def test_candidates_with_the_same_count_stand_side_by_side() -> None:
    at = places(answers.certified).at
    assert at[workers(2)] < 2 < at[workers(2, 4)]
    assert at[workers(3)] == 3


def test_an_interrupted_search_is_drawn_with_the_results_of_the_search() -> None:
    rates, _ = axes(answers.interrupted)
    assert [y for _, y in lines(rates)["chosen"]] == [2035]
    assert not is_drawn(answers.nothing_ran)

"""The table and the pictures of a job of several ranks, with two ranks and with a thousand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from loaderlab.diagnosis.ranks import RankFacts, RankSteps, judge_ranks
from loaderlab.report import rank_charts
from loaderlab.report.rank_charts import bars_by_rank, waits_by_rank
from loaderlab.report.rank_table import rank_table, ranks_section
from loaderlab.report.run_page import markdown
from tests.diagnosis.planted_ranks import ranks_of, times


def one_slow(num_ranks: int, slow: int, num_steps: int = 40) -> list[RankSteps]:
    """A job whose rank ``slow`` waits for 5 ms; the others for 1 ms. Its step has 17 ms, including 10 ms of compute."""
    starved = times(num_ranks, num_steps, 1.0)
    starved[slow] = 5.0
    return ranks_of(starved, times(num_ranks, num_steps, 10.0), {slow: RankFacts(loader_rate=412.4)})


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved from now on, instead of files."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    return figures


def cells(axis: Axes) -> np.ndarray:
    """The values of a heat map."""
    (mesh,) = (entry for entry in axis.collections if isinstance(entry, QuadMesh))
    values = mesh.get_array()
    assert values is not None
    return np.ma.filled(np.ma.masked_invalid(values), np.nan)


def test_the_table() -> None:
    columns, rows = rank_table(one_slow(2, 1))
    assert rows == [
        ["0", "n0", "17.00", "5.9 %", "10.00", "6.00", ""],
        ["1", "n0", "17.00", "29.4 %", "10.00", "2.00", "412"],
    ]
    assert len(columns) == 7


def test_the_loader_alone_has_no_column_if_no_rank_measured_it() -> None:
    ranks = ranks_of(times(2, 40, 1.0), times(2, 40, 10.0))
    columns, rows = rank_table(ranks)
    assert len(columns) == len(rows[0]) == 6
    assert "loader alone" not in "".join(columns)
    assert "loader alone" not in ranks_section(judge_ranks(ranks, 2), ranks)


def test_the_table_of_many_ranks_has_the_slowest_and_the_fastest() -> None:
    starved = times(100, 40, 1.0) + np.arange(100)[::-1, np.newaxis] / 100  # rank 0 is the slowest
    _, rows = rank_table(ranks_of(starved, times(100, 40, 10.0)))
    assert [row[0] for row in rows] == [*map(str, range(15)), "99"]


def test_a_rank_without_steps_has_no_row() -> None:
    ranks = one_slow(2, 1)
    empty = np.empty(0)
    ranks[0] = RankSteps(0, "n0", np.empty(0, np.int64), empty, empty, empty)
    assert [row[0] for row in rank_table(ranks)[1]] == ["1"]


def test_the_page_has_the_verdict_and_the_table() -> None:
    ranks = one_slow(64, 7)
    page = markdown("a job", {}, {}, None, ranks_section(judge_ranks(ranks, 64), ranks))
    assert "\n## Ranks\n\nRank 7 (node n3) is the straggler: " in page
    assert "The 15 slowest ranks and the fastest, of 64:" in page
    assert "| 7 | n3 | 17.00 | 29.4 % | 10.00 | 2.00 | 412 |" in page
    assert "## Ranks" not in markdown("a job", {}, {}, None)


@pytest.mark.parametrize("num_ranks", [2, 16, 17, 128, 129, 1024])
def test_one_slow_rank_is_visible_among_any_number(num_ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = drawn(monkeypatch)
    ranks = one_slow(num_ranks, slow=num_ranks - 1)
    waits_by_rank(Path("waits.png"), "waits", ranks)
    bars_by_rank(Path("bars.png"), "bars", ranks, judge_ranks(ranks, num_ranks).straggler)
    rows = cells(figures[0].axes[0]).reshape(-1, 40)
    assert len(rows) <= rank_charts.ROWS
    assert (rows[-1] == 5.0).all()
    assert (rows[:-1] == 1.0).all()
    starved, compute, others = figures[1].axes[0].containers
    assert [bar.get_height() for bar in starved] == [1.0] * (len(rows) - 1) + [5.0]
    assert {bar.get_height() for bar in compute} == {10.0}
    assert [bar.get_height() for bar in others] == [6.0] * (len(rows) - 1) + [2.0]
    texts = [text.get_text() for text in figures[1].axes[0].texts]
    assert f"rank {num_ranks - 1} is the straggler (loader)" in texts


def test_without_a_straggler_no_bar_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the ranks look unequal: the verdict on the job may be inconclusive."""
    figures = drawn(monkeypatch)
    bars_by_rank(Path("bars.png"), "bars", one_slow(4, 1), None)
    assert not figures[0].axes[0].texts


def test_short_waits_look_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The darkest colour stands for at least a quarter of the step, even if no rank waits that long."""
    figures = drawn(monkeypatch)
    waits_by_rank(Path("waits.png"), "waits", ranks_of(times(4, 40, 0.1), times(4, 40, 10.0)))
    (mesh,) = (entry for entry in figures[0].axes[0].collections if isinstance(entry, QuadMesh))
    assert list(mesh.get_clim()) == pytest.approx([0.0, 12.1 / 4])


def test_steps_that_a_rank_did_not_measure_are_grey(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = drawn(monkeypatch)
    ranks = one_slow(2, 1)
    ranks[1] = RankSteps(
        1, "n0", *(getattr(ranks[1], name)[:20] for name in ("step", "starved_ms", "own_ms", "length_ms"))
    )
    waits_by_rank(Path("waits.png"), "waits", ranks)
    values = cells(figures[0].axes[0]).reshape(2, 40)
    assert np.isnan(values[1, 20:]).all()
    assert np.isfinite(values[0]).all()


def test_pictures_of_emulated_ranks_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = drawn(monkeypatch)
    waits_by_rank(Path("picture.png"), "a job", one_slow(2, 1), emulated=True)
    bars_by_rank(Path("picture.png"), "a job", one_slow(2, 1), None, emulated=True)
    labels = [text.get_text() for text in figures[1].legends[0].get_texts()]
    assert labels[0] == "emulated device starved"
    assert figures[0].axes[1].get_ylabel().startswith("emulated device starved")


@pytest.mark.parametrize("num_ranks", [1, 2, 200])
def test_the_files(num_ranks: int, tmp_path: Path) -> None:
    waits_by_rank(tmp_path / "waits.png", "waits", one_slow(num_ranks, 0))
    bars_by_rank(tmp_path / "bars.png", "bars", one_slow(num_ranks, 0), None)
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("waits.png", "bars.png"))

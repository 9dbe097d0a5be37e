"""Shares of a worker's time, by exact figures."""

from __future__ import annotations

import pytest

from loaderlab.lines.gain import gain_without
from loaderlab.lines.shares import COMPUTING, OTHER_THREADS, SLEEPING, SlowLines, slow_lines
from loaderlab.lines.stacks import Frame, Recording
from loaderlab.lines.words import doubt, facts, rows, sentence, stages
from tests.lines.planted import COLLATES, ITEMS, MS, WAITS, recording, span

SLOW, FAST = Frame("/data/a.py", 88, "elastic_deform"), Frame("/data/a.py", 12, "__getitem__")


def waits(*intervals_ms: tuple[int, int]) -> list[tuple[int, int]]:
    return [(begin * MS, end * MS) for begin, end in intervals_ms]


def lines_of(whole: Recording, *intervals_ms: tuple[int, int], workers: int = 2, waits_pct: float = 40.0) -> SlowLines:
    lines = slow_lines(whole, waits(*intervals_ms), num_workers=workers, waits_pct=waits_pct)
    assert lines is not None
    return lines


HALF = recording(
    span(0, 600, ITEMS, SLOW), span(600, 900, ITEMS, FAST, computing=0.0), span(900, 1000, *WAITS), cost_ms=20
)


def test_shares_are_of_the_busy_time() -> None:
    lines = lines_of(HALF, (0, 1000))
    assert [(part.line.line, round(part.wall_pct, 1)) for part in lines.lines] == [(88, 66.7), (12, 33.3)]
    assert (lines.busy_pct, lines.busy_s, lines.cost_pct) == (90.0, 0.9, 2.0)
    assert lines.stages[-1].stage.kind == "waiting"
    assert lines.stages[-1].wall_pct == pytest.approx(10.0)


def test_only_the_time_within_waits_is_exposed() -> None:
    """Of 900 ms of work, 200 + 200 are within waits: half in each line."""
    lines = lines_of(HALF, (402, 802), (952, 1000))
    assert [round(part.exposed_pct, 1) for part in lines.lines] == [50.0, 50.0]
    assert lines.exposed_s == pytest.approx(0.4)
    assert not lines.is_free


def test_a_line_that_is_never_waited_for_is_free() -> None:
    first, second = lines_of(HALF, (702, 900)).lines
    assert (first.line.line, first.is_free, first.exposed_pct) == (12, False, 100.0)
    assert (second.line.line, second.is_free) == (88, True)


def test_a_free_line_comes_last_and_gains_nothing() -> None:
    """It takes 60 % of the work; the exposed time is in four other lines, in equal parts."""
    others = [Frame("/data/a.py", line, "__getitem__") for line in (21, 22, 23, 24)]
    spans, waited = [], []
    for period in range(8):
        begin = 400 * period
        spans.append(span(begin, begin + 180, ITEMS, SLOW))
        for number, other in enumerate(others):
            spans.append(span(begin + 180 + 30 * number, begin + 210 + 30 * number, ITEMS, other))
        spans.append(span(begin + 300, begin + 400, *WAITS))
        exposed = begin + 180 + 30 * (period % 4)
        waited.append((exposed + 2, exposed + 30))
    lines = lines_of(recording(*spans), *waited)
    assert [(part.line.line, round(100 * part.share)) for part in lines.lines] == [
        (21, 25),
        (22, 25),
        (23, 25),
        (24, 25),
        (88, 60),
    ]
    free = lines.lines[-1]
    assert free.is_free
    assert lines.gain(free).run_x == 1.0
    assert lines.gain(free).loader_x == pytest.approx(2.5)
    assert lines.gain(lines.top).run_x == pytest.approx(4 / 3)
    assert "25 % of the workers' time is a.py:21" in sentence(lines)


PAUSES = recording(span(0, 1500, ITEMS, SLOW), span(1500, 2000, ITEMS, FAST), span(2000, 4000, *WAITS))


def test_few_samples_within_waits_say_nothing_of_the_exposed_time() -> None:
    lines = lines_of(PAUSES, (1502, 1560))
    assert (lines.num_exposed, lines.too_few_exposed) == (6, True)
    assert [(part.line.line, part.share, part.is_free) for part in lines.lines] == [
        (88, 0.75, False),
        (12, 0.25, False),
    ]
    reason = "only 6 samples were taken while the training waited, so these are shares of all the worker's time"
    assert sentence(lines).endswith(f"; {reason}")


def test_the_doubt_is_by_the_samples_that_count() -> None:
    """200 samples are busy, and 20 within waits."""
    lines = lines_of(PAUSES, (1502, 1700))
    assert (lines.top.line.line, lines.num_samples, lines.num_counted) == (12, 200, 20)
    assert doubt(lines) == "only 20 samples count, so shares may be off by 22 points"
    assert doubt(lines_of(PAUSES, (2, 2000))) == ""


def test_a_line_with_little_work_is_in_the_table_if_the_training_waits_for_it() -> None:
    """0.7 % of the work, and a tenth of the exposed time."""
    whole = recording(span(0, 2980, ITEMS, SLOW), span(2980, 3000, ITEMS, FAST), span(3000, 4000, *WAITS))
    lines = lines_of(whole, (2802, 3000))
    assert [row[0] for row in rows(lines, lines.lines)] == ["90 %", "10 %"]


def test_all_time_of_a_worker_without_pause_counts() -> None:
    """The waits are at the end of each batch, but a faster beginning would shorten them too."""
    batches = [
        entry
        for begin in range(0, 1000, 100)
        for entry in (span(begin, begin + 60, ITEMS, SLOW), span(begin + 60, begin + 100, ITEMS, FAST))
    ]
    lines = lines_of(recording(*batches), *[(begin + 52, begin + 100) for begin in range(0, 1000, 100)], workers=1)
    assert (lines.top.line.line, lines.top.wall_pct) == (88, 60.0)
    assert lines.top.exposed_pct < 50.0
    assert lines.gain(lines.top).loader_x == pytest.approx(2.5)


def test_nothing_counts_if_the_training_hardly_waits() -> None:
    lines = lines_of(HALF, (400, 800), waits_pct=1.0)
    assert lines.is_free
    assert all(part.is_free for part in lines.lines)
    assert sentence(lines) == (
        "a.py:88 elastic_deform (computing) takes 67 % of the workers' time and is free: the training does not wait for it; "
        "only 90 samples count, so shares may be off by 10 points"
    )


def test_without_workers_only_the_waits_are_the_loaders() -> None:
    """300 of the 1000 ms are in the loader, and 100 in another one, of an evaluation."""
    whole = recording(
        span(0, 600, FAST), span(600, 700, ITEMS, FAST), span(700, 900, ITEMS, SLOW), span(900, 1000, ITEMS, FAST)
    )
    lines = lines_of(whole, (702, 1000), workers=0, waits_pct=30.0)
    assert (lines.busy_s, round(lines.top.wall_pct, 1)) == (0.3, 66.7)
    assert sentence(lines) == (
        "67 % of the loader's time is a.py:88 elastic_deform (computing); without it a step would be 1.2x as fast; "
        "only 30 samples count, so shares may be off by 18 points"
    )


def test_a_worker_that_hardly_works_has_no_slow_lines() -> None:
    whole = recording(span(0, 90, ITEMS, SLOW), span(90, 1000, *WAITS))
    assert slow_lines(whole, waits((0, 1000)), num_workers=1, waits_pct=40.0) is None


@pytest.mark.parametrize(
    ("computing", "others", "spends"),
    [(1.0, 0.0, COMPUTING), (1.0, 1.0, COMPUTING), (0.0, 1.0, OTHER_THREADS), (0.1, 0.0, SLEEPING)],
)
def test_how_a_line_spends_its_time(computing: float, others: float, spends: str) -> None:
    whole = recording(span(0, 500, ITEMS, SLOW, computing=computing, others=others))
    top = lines_of(whole, (0, 500)).top
    assert (top.cpu_pct, top.others_pct, top.spends) == (100 * computing, 100 * others, spends)


def test_a_function_of_many_lines_is_mentioned_whole() -> None:
    deform = [
        span(100 * index, 100 * index + 100, ITEMS, Frame("/data/a.py", 80 + index, "deform")) for index in range(5)
    ]
    lines = lines_of(recording(*deform, span(500, 600, ITEMS, FAST)), (0, 600))
    assert lines.functions[0].wall_pct == pytest.approx(100 * 5 / 6)
    assert "17 % of the workers' time is a.py:80 deform (computing), all of deform 83 %" in sentence(lines)


def test_the_sentence_has_the_gain_of_the_loader_and_what_the_device_can_take() -> None:
    """Without 66.7 % of its work a loader makes 3 times as much; without 40 % of its step a training takes 1.67 times as much."""
    twice = recording(span(0, 1200, ITEMS, SLOW), span(1200, 1800, ITEMS, FAST), span(1800, 2000, *WAITS))
    assert sentence(lines_of(twice, (0, 2000))) == (
        "67 % of the workers' time is a.py:88 elastic_deform (computing); without it the loader would make 3.0x, the device can take 1.7x"
    )


def test_tables() -> None:
    lines = lines_of(HALF, (0, 1000))
    assert rows(lines, lines.lines)[0] == ("67 %", "a.py:88 elastic_deform", "dataset", COMPUTING, "1.67x")
    assert stages(lines) == "Its work: 100 % dataset"
    assert facts(lines) == "1 of 2 workers, 1.0 s, 90 % busy; the profiler took 2.0 %"
    content = lines.as_json()
    assert content["top"]["place"] == "a.py:88 elastic_deform"
    assert content["top"]["gain"]["loader_x"] == pytest.approx(3.0)


def test_collating_in_a_library_is_a_stage_with_a_line() -> None:
    lines = lines_of(recording(span(0, 400, COLLATES)), (0, 400))
    assert (lines.top.title, lines.top.line.function) == ("collate", "fetch")


@pytest.mark.parametrize(
    ("workers", "share", "waits_share", "device_x", "run_x"),
    [
        (2, 0.5, 0.5, None, 2.0),  # as much as the device can take
        (2, 0.5, 0.8, None, 2.0),  # as much as the loader makes
        (2, 0.9, 0.5, None, 2.0),
        (2, 0.5, 0.5, 1.5, 1.5),
        (0, 0.5, 0.5, None, 4 / 3),  # 10 ms of loading become 5, the step of 10 ms stays
        (0, 1.0, 0.5, None, 2.0),
        (4, 0.5, 0.0, None, 1.0),
    ],
)
def test_the_gain(workers: int, share: float, waits_share: float, device_x: float | None, run_x: float) -> None:
    gain = gain_without(share, waits=waits_share, num_workers=workers, device_x=device_x)
    assert gain.run_x == pytest.approx(run_x, rel=2e-3)

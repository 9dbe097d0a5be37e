"""The results of the ranks of a watched job: as bytes, and the verdict over all of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loaderlab import metrics
from loaderlab.attach import rank_results
from loaderlab.attach.events import GRADIENTS, UNKNOWN, Events, Kind, LoaderFacts, Program, Row
from loaderlab.attach.outputs import as_html, as_json, text
from loaderlab.attach.rank_results import (
    SILENT,
    load,
    not_compared,
    over_ranks,
    result_of,
    save,
    silent,
    unpacked,
)
from loaderlab.attach.reading import Reading, read_events
from tests.diagnosis.profiled_lines import line_record

MS = 1_000_000
THREAD = 1
Times = Callable[[int], tuple[float, float]]  # of a step: the wait and the own compute, ms


def readings(*ranks: Times, steps: int = 60, ddp: bool = True, unseparated: str = "") -> list[Reading]:
    """Ranks that exchange gradients in each step, so that all of them last as long as the slowest."""
    lengths = [max(sum(times(step)) for times in ranks) + 1 for step in range(steps)]
    return [_reading(rank, len(ranks), times, lengths, ddp, unseparated) for rank, times in enumerate(ranks)]


def _reading(rank: int, num_ranks: int, times: Times, lengths: Sequence[float], ddp: bool, unseparated: str) -> Reading:
    rows, begin = [Row(Kind.START, 0, 1, THREAD, 0, 0)], 0.0
    for step, length in enumerate(lengths):
        wait, compute = times(step)
        ms = [round(value * MS) for value in (begin, begin + wait, begin + wait + compute, begin + length)]
        rows.append(Row(Kind.BATCH, 0, 1, THREAD, ms[0], ms[1], 8))
        if ddp:
            rows.append(Row(Kind.COLLECTIVE, UNKNOWN, UNKNOWN, THREAD, ms[2], ms[3], 0, GRADIENTS))
        rows.append(Row(Kind.OPTIMIZER, UNKNOWN, UNKNOWN, THREAD, ms[3], ms[3]))
        begin += length
    facts = LoaderFacts(0, "torch", "DataLoader", made_at=("train.py:9",), batch_size=8)
    program = Program(
        device="cpu",
        device_title="cpu a processor",
        rank=rank,
        num_ranks=num_ranks,
        node=f"n{rank // 2}",
        unseparated=unseparated,
    )
    return read_events(Events(program, (facts,), rows))


def job(*ranks: Times, steps: int = 60, ddp: bool = True, unseparated: str = "") -> Reading:
    first, *others = readings(*ranks, steps=steps, ddp=ddp, unseparated=unseparated)
    return over_ranks(first, [unpacked(result_of(other).packed()) for other in others])


def fed(step: int) -> tuple[float, float]:
    return 0.2, 9.8


def starved(step: int) -> tuple[float, float]:
    return 10.0, 10.0


# ---- as bytes ------------------------------------------------------------------------------------------------------------


def test_a_result_survives_its_bytes(tmp_path: Path) -> None:
    result = result_of(readings(fed, starved)[1])
    save([result], tmp_path / "ranks")
    for copy in (unpacked(result.packed()), *load(tmp_path / "ranks")):
        assert (copy.rank, copy.ranks.node, copy.facts) == (1, "n0", result.facts)
        assert copy.figures == result.figures
        assert copy.samples.tolist() == result.samples.tolist() == 55 * [8]
        for name in ("step", "starved_ms", "own_ms", "length_ms"):
            assert getattr(copy.window, name) == pytest.approx(getattr(result.window, name))
    assert load(tmp_path / "no file") == []


def test_a_result_without_steps_survives_its_bytes() -> None:
    copy = unpacked(silent(3, "no reason").packed())
    assert (copy.rank, copy.reason, len(copy.rows)) == (3, "no reason", 0)


def test_of_a_long_program_all_ranks_send_the_same_blocks_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_results, "MOST_STEPS", 100)
    monkeypatch.setattr(rank_results, "BLOCK", 10)
    short, long = (result_of(readings(fed, fed, steps=steps)[0]).rows["step"] for steps in (390, 400))
    for steps in (short, long):
        assert len(steps) <= 110
        assert set((steps // 10 % 4).tolist()) == {0}
        assert set(np.diff(steps).tolist()) <= {1, 31}, "whole blocks"
    assert set(short.tolist()) <= set(long.tolist())


# ---- the verdict ---------------------------------------------------------------------------------------------------------


def test_the_jobs_lost_time_is_that_of_the_slowest_rank() -> None:
    """Own times of 10 and 20 ms: the job loses the 10 ms that its slow rank waits, in steps of 21 ms."""
    reading = job(fed, starved)
    assert reading.ranks is not None
    straggler = reading.ranks.verdict.straggler
    assert straggler is not None
    assert (straggler.rank, straggler.node, straggler.cause) == (1, "n0", "loader")
    assert reading.lost_pct == pytest.approx(100 * 10 / 21, abs=0.1)
    assert reading.job.figures[metrics.STARVED_PCT] == pytest.approx(100 * 10 / 21, abs=0.1)
    assert reading.job.figures[metrics.RATE] == pytest.approx(16 / 0.021)
    assert reading.job.verdict.grade == "starved"
    assert reading.ranks.unseparated == ""


def test_a_wait_that_another_rank_computes_through_costs_nothing() -> None:
    reading = job(lambda step: (0.0, 15.0), lambda step: (4.0, 10.5))
    assert reading.ranks is not None
    assert reading.ranks.lost_pct == pytest.approx({0: 0.0, 1: 0.0}, abs=0.1)
    assert "rank 1 4.00 ms (alone costs the job 0.0 %)" in " ".join(text(reading, "train.py").split())
    assert reading.ranks.verdict.straggler is None
    assert reading.lost_pct == pytest.approx(0.0, abs=0.1)
    assert reading.job.verdict.grade == "fed"


def test_compute_is_the_ranks_own_without_the_collective() -> None:
    """Own computes of 9.8 and 10 ms in steps of 21 ms."""
    figures = job(fed, starved).job.figures
    assert figures[metrics.COMPUTE_MS] == pytest.approx(9.9)
    assert figures[metrics.worst_of(metrics.COMPUTE_MS) or ""] == pytest.approx(10.0)
    assert figures[metrics.COLLECTIVE_MS] == pytest.approx((11 + 1) / 2)
    assert figures[metrics.STRAGGLER_EXCESS_PCT] == pytest.approx(100 * 10 / 21, abs=0.1)


def test_each_rank_has_the_share_that_the_job_loses_by_it_alone() -> None:
    reading = job(lambda step: (2.0, 10.0), starved)
    assert reading.ranks is not None
    assert reading.ranks.lost_pct == pytest.approx({0: 100 * 2 / 21, 1: 100 * 10 / 21})
    content = json.loads(as_json(reading, "train.py"))
    assert content["ranks"][0]["job_starved_pct"] == pytest.approx(100 * 2 / 21)
    assert "the job loses 10 ms of it" in " ".join(text(reading, "train.py").split())
    assert "47.6 %</td>" in as_html(reading, "train.py")


def test_what_differs_between_the_loaders_is_named() -> None:
    first, second = readings(fed, starved)
    slow = result_of(second)
    facts = replace(slow.facts, read_mib_per_s=0.002, num_workers=1, num_samples=2000, file_system="nfs4")
    own = result_of(first)
    own = replace(
        own, facts=replace(own.facts, read_mib_per_s=0.001, num_workers=4, num_samples=1000, file_system="ext4")
    )
    straggler = over_ranks(first, [own, replace(slow, facts=facts)]).ranks.verdict.straggler  # type: ignore[union-attr]
    assert straggler is not None
    assert straggler.differs == (
        "its loader has 1 worker, the others 4",
        "its dataset has 2,000 samples, the others 1,000",
        "its data is on nfs4, the others' on ext4",
    )


def test_the_ranks_send_what_is_known_of_their_loaders() -> None:
    reading = readings(fed, fed)[0]
    loader = replace(reading.job.facts, num_workers=3, num_samples=80, num_batches=10, file_system="ext4")
    facts = result_of(replace(reading, job=replace(reading.job, facts=loader))).facts
    assert (facts.num_workers, facts.num_samples, facts.num_batches, facts.file_system) == (3, 80, 10, "ext4")


def test_a_slow_device() -> None:
    straggler = job(fed, lambda step: (0.2, 19.8), fed, fed).ranks.verdict.straggler  # type: ignore[union-attr]
    assert straggler is not None
    assert (straggler.rank, straggler.cause) == (1, "device")


def test_a_slow_rank_that_moves() -> None:
    def moving(rank: int) -> Times:
        return lambda step: (10.0 if step * 7 % 5 % 3 == rank else 0.1, 10.0)

    straggler = job(moving(0), moving(1), moving(2)).ranks.verdict.straggler  # type: ignore[union-attr]
    assert straggler is not None
    assert (straggler.rank, straggler.cause) == (None, "moving")


@pytest.mark.parametrize(("ddp", "reason"), [(False, ""), (True, "a reason")])
def test_without_a_separate_collective_only_waits_are_compared(ddp: bool, reason: str) -> None:
    waits = job(fed, starved, ddp=ddp, unseparated=reason)
    assert waits.ranks is not None
    assert waits.ranks.verdict.straggler is not None
    assert waits.ranks.verdict.straggler.cause == "loader"
    assert "could not be separated" in text(waits, "train.py")
    assert "own compute" not in as_html(waits, "train.py")
    slow_device = job(fed, lambda step: (0.2, 19.8), ddp=ddp, unseparated=reason)
    assert slow_device.ranks is not None
    assert slow_device.ranks.verdict.straggler is None


def test_a_rank_without_a_result_is_not_judged() -> None:
    first, second, _ = readings(fed, starved, fed)
    reading = over_ranks(first, [result_of(second)])
    assert reading.ranks is not None
    assert reading.ranks.verdict.unmeasured == (2,)
    assert reading.job.figures[metrics.NUM_RANKS] == 3
    assert reading.ranks.verdict.straggler is not None
    assert f"Note: rank 2: {SILENT}." in " ".join(text(reading, "train.py").split())
    assert str(reading.ranks) == f"{reading.ranks.verdict.sentence}; rank 2: {SILENT}"
    assert reading.job.verdict.grade == "starved"


def test_a_rank_with_few_steps_does_not_hide_the_others() -> None:
    first, second, third = readings(fed, starved, fed)
    few = result_of(third)
    reading = over_ranks(first, [result_of(second), replace(few, rows=few.rows[:8])])
    assert reading.lost_pct == pytest.approx(100 * 10 / 21, abs=0.1)


def test_the_profile_of_the_first_rank_is_that_of_the_job(tmp_path: Path) -> None:
    """Its steps are not measured for the job. Each rank has a profile, and the first one's is shown."""
    profile = line_record(tmp_path, {"f = open(path)": 3.0, "return image, label": 1.0})
    first, second = readings(starved, starved)
    steps = [replace(step, disturbed=step.disturbed or 10 <= step.step < 30) for step in first.job.loop.steps]
    first = replace(first, job=replace(first.job, loop=replace(first.job.loop, steps=steps, profiled=profile)))
    reading = over_ranks(first, [unpacked(result_of(second).packed())])
    assert {step.step for step in reading.job.loop.window}.isdisjoint(range(10, 30))
    assert len(reading.job.loop.window) == len(second.job.loop.window) - 20
    assert reading.lost_pct == pytest.approx(100 * 10 / 21, abs=0.1)
    assert reading.slow is not None
    assert reading.slow.lines is not None
    assert reading.slow.lines.top.line.text == "f = open(path)"
    assert reading.slow.lines.device_x == pytest.approx(1 / (1 - 10 / 21), rel=0.01)
    assert reading.job.figures[metrics.LINES_SHARE_PCT] == 75
    assert reading.job.verdict.slow_line.startswith("75 % of the workers' time is data.py:1 __getitem__")


def test_alone_the_first_rank_keeps_its_own_verdict() -> None:
    first, _ = readings(starved, fed)
    for reading in (over_ranks(first, []), not_compared(first, "a reason")):
        assert reading.job is first.job
        assert text(reading, "train.py").startswith("loaderlab: train.py, rank 0 of 2: starved of data ")
        assert json.loads(as_json(reading, "train.py"))["straggler"] is None
        assert "2 ranks" in as_html(reading, "train.py")


# ---- as text and as files ------------------------------------------------------------------------------------------------


def test_the_text_names_the_straggler() -> None:
    lines = text(job(fed, starved), "train.py")
    assert lines.startswith("loaderlab: train.py on 2 ranks: starved of data ")
    assert "Ranks: rank 1 (node n0) is the straggler" in " ".join(lines.split())


def test_the_json_has_every_rank() -> None:
    content = json.loads(as_json(job(fed, starved), "train.py"))
    assert [entry["rank"] for entry in content["ranks"]] == [0, 1]
    slow = content["ranks"][1]
    times = (slow["starved_ms"], slow["own_compute_ms"], slow["collective_ms"], slow["starved_pct"])
    assert times == pytest.approx((10, 10, 1, 100 * 10 / 21))
    assert content["straggler"]["rank"] == 1
    assert content["job_starved_pct"] == pytest.approx(100 * 10 / 21)


def test_the_page_shows_some_of_many_ranks() -> None:
    page = as_html(job(starved, *39 * [fed]), "train.py")
    assert "40 ranks" in page
    assert page.count("<tr><td>") < 40
    assert "24 ranks are left out" in page

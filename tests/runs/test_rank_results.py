"""The results of a job from what its ranks measured: sums, medians, the worst rank, the lost time. Without processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loaderlab import metrics
from loaderlab.diagnosis.figures import LoopRecord, figures_of
from loaderlab.diagnosis.rank_rows import node_facts
from loaderlab.meter.rates import LoaderRate, ProbeResults, Rate
from loaderlab.meter.step_rows import DISTURBED, rows_of
from loaderlab.runs.rank_results import JobResults, RankReport, join_reports, unsaid
from loaderlab.system.ranks import Ranks
from tests import simulated
from tests.diagnosis.planted_ranks import ALL_REDUCE_MS, BATCH, steps_of, times
from tests.diagnosis.profiled_lines import line_record

WARMUP, STEPS = 10, 60
LOOP = simulated.Loop(lambda _: 0.0, workers=1, steps=STEPS)
SETUP = replace(simulated.setup(LOOP), batch_size=BATCH)


def reports(
    starved: np.ndarray,
    compute: np.ndarray,
    probes: Mapping[int, ProbeResults] | None = None,
) -> tuple[list[RankReport], LoopRecord]:
    """The report of each rank, and the loop of rank 0; times in ms, (num_ranks, num_steps)."""
    every, made = steps_of(starved, compute), list[RankReport]()
    loops = [LoopRecord(steps, WARMUP, 1, [], [], {}, cores=8) for steps in every]
    for rank, (steps, loop) in enumerate(zip(every, loops, strict=True)):
        own = (probes or {}).get(rank, ProbeResults())
        place = Ranks(rank, len(every), rank % 2, 2, f"n{rank // 2}")
        made.append(RankReport(place, rows_of(steps), WARMUP, 1, figures_of(loop, own, SETUP), probes=own))
    return made, loops[0]


def joined(starved: np.ndarray, compute: np.ndarray, probes: Mapping[int, ProbeResults] | None = None) -> JobResults:
    made, loop = reports(starved, compute, probes)
    return join_reports(made, loop, SETUP)


def planted(*ms: float) -> np.ndarray:
    """The same time in every step, for each rank."""
    return np.array([[each] * STEPS for each in ms])


def test_the_jobs_lost_time_is_what_its_slowest_rank_lost() -> None:
    """Rank 1 starves 5 ms; rank 0 computes 3 ms longer, so 2 ms of its wait cost the job time."""
    job = joined(planted(0, 5), planted(10, 7))
    assert job.figures[metrics.STARVED_PCT] == pytest.approx(100 * 2 / (12 + ALL_REDUCE_MS))
    assert job.figures[metrics.worst_of(metrics.STARVED_PCT) or ""] == pytest.approx(100 * 5 / (12 + ALL_REDUCE_MS))
    assert job.figures[metrics.RATE] == pytest.approx(1e3 * 2 * BATCH / (12 + ALL_REDUCE_MS))
    assert job.figures[metrics.NUM_RANKS] == 2
    assert job.ranks.excess_pct == pytest.approx(100 * 2 / (12 + ALL_REDUCE_MS))


def test_a_wait_that_costs_nothing_is_not_lost() -> None:
    job = joined(planted(0, 5), planted(20, 7))
    assert job.figures[metrics.STARVED_PCT] == 0
    assert job.verdict.grade == "fed"
    assert job.figures[metrics.WAIT_PCT] == pytest.approx(100 * 2.5 / (20 + ALL_REDUCE_MS))  # the median of two
    assert job.ranks.straggler is not None
    assert (job.ranks.straggler.rank, job.ranks.straggler.cause) == (0, "device")


def test_the_straggler_is_named_in_the_verdict() -> None:
    job = joined(planted(0, 0, 0, 9), planted(10, 10, 10, 10))
    assert job.ranks.tags() | {"straggler.excess_pct": ""} == {
        "straggler.rank": "3",
        "straggler.node": "n1",
        "straggler.cause": "loader",
        "straggler.level": "critical",
        "straggler.excess_pct": "",
    }
    assert job.ranks.sentence
    assert job.ranks.sentence in job.verdict.because


def test_an_inconclusive_job_names_no_straggler() -> None:
    """The ceiling is below the rate, which cannot be true: something else used the machine."""
    rate = joined(planted(0, 9), planted(10, 10)).figures[metrics.RATE] / 2
    job = joined(planted(0, 9), planted(10, 10), dict.fromkeys((0, 1), probed(900.0, rate / 2)))
    assert job.verdict.grade == "inconclusive"
    assert job.ranks.tags().keys() == {"straggler.excess_pct"}
    assert job.ranks.sentence.startswith(
        "no straggler is named, since the verdict is inconclusive: the slowest, rank 1 "
    )
    assert job.verdict.because.endswith(job.ranks.sentence)


def test_a_rate_of_some_of_the_ranks_is_not_the_jobs() -> None:
    """After a failure, a rank on another node is missing."""
    made, loop = reports(planted(0, 0, 0), planted(10, 10, 10))
    job = join_reports(made[:2], loop, SETUP)
    assert metrics.RATE not in job.figures
    assert job.figures[metrics.NUM_RANKS] == 3
    assert job.figures[metrics.STEP_MS] == pytest.approx(10 + ALL_REDUCE_MS)
    assert job.ranks.num_ranks == 3


def probed(alone: float, ceiling: float) -> ProbeResults:
    return ProbeResults(ceiling=Rate(ceiling, (ceiling - 1, ceiling + 1)), loader_alone=LoaderRate(alone, 1.0))


def test_the_loader_of_the_job_is_its_slowest_and_the_ceiling_is_the_mean() -> None:
    probes = {0: probed(900.0, 3000.0), 1: probed(400.0, 2000.0)}
    job = joined(planted(0, 70), planted(10, 10), probes)
    assert job.figures[metrics.LOADER_RATE] == 1300
    assert job.figures[metrics.CEILING_RATE] == 5000
    assert job.figures[metrics.worst_of(metrics.LOADER_RATE) or ""] == 400
    assert job.figures[metrics.HEADROOM_X] == pytest.approx(5000 / job.figures[metrics.RATE])
    del probes[1]
    job = joined(planted(0, 70), planted(10, 10), probes)
    assert metrics.LOADER_RATE not in job.figures
    assert metrics.CEILING_RATE not in job.figures


def test_the_first_steps_of_every_rank_are_left_out() -> None:
    made, loop = reports(times(2, STEPS, 0), times(2, STEPS, 10))
    made[1] = replace(made[1], warmup_steps=30)
    job = join_reports(made, loop, SETUP)
    assert [len(window.step) for window in job.windows] == [STEPS - 30] * 2  # the steps that both measured


def test_a_rank_with_few_steps_does_not_hide_those_of_the_others() -> None:
    made, loop = reports(times(2, STEPS, 0), times(2, STEPS, 10))
    made[1] = replace(made[1], warmup_steps=STEPS - 3)
    job = join_reports(made, loop, SETUP)
    assert [len(window.step) for window in job.windows] == [STEPS - WARMUP, 3]
    assert job.ranks.unmeasured == (1,)


def test_the_job_is_measured_after_the_longest_warm_up() -> None:
    made, loop = reports(times(2, STEPS, 0), times(2, STEPS, 10))
    made[1] = replace(made[1], warmup_steps=30)
    job = join_reports(made, loop, SETUP)
    assert job.loop.warmup_steps == 30


def test_the_steps_of_the_profile_on_rank_0_are_not_measured_for_the_job(tmp_path: Path) -> None:
    """And its lines are kept, with what the job can gain: 5 of 17 ms."""
    made, loop = reports(planted(5, 5), planted(10, 10))
    rows = made[0].rows.copy()
    rows["flags"][WARMUP : WARMUP + 20] |= DISTURBED
    rows["host_wait"][WARMUP : WARMUP + 20] = 50
    profile = line_record(tmp_path, {"f = open(path)": 3.0, "return image, label": 1.0})
    job = join_reports([replace(made[0], rows=rows), made[1]], replace(loop, profiled=profile), SETUP)
    measured = [*range(WARMUP + 20, STEPS)]
    assert [step.step for step in job.loop.window] == measured
    assert [window.step.tolist() for window in job.windows] == [measured, measured]
    assert job.figures[metrics.STARVED_PCT] == pytest.approx(100 * 5 / 17)
    assert job.lines is not None
    assert job.lines.top.line.text == "f = open(path)"
    assert job.lines.device_x == pytest.approx(17 / 12)
    assert job.figures[metrics.LINES_SHARE_PCT] == 75
    assert job.verdict.slow_line.startswith("75 % of the workers' time is data.py:1 __getitem__")


def test_the_loss_of_the_job_is_in_its_record() -> None:
    made, loop = reports(times(2, STEPS, 0), times(2, STEPS, 10))
    rows = made[0].rows.copy()
    rows["loss"] = np.arange(STEPS)
    other = rows.copy()
    other["loss"] += 1
    made = [replace(made[0], rows=rows), replace(made[1], rows=other)]
    job = join_reports(made, replace(loop, losses=[1.0] * 4), SETUP)
    assert len(job.loop.losses) == 4
    assert all(value >= STEPS - 4 for value in job.loop.losses)


def test_warnings_of_other_ranks_are_printed_once_with_their_ranks() -> None:
    made, _ = reports(times(4, 20, 0), times(4, 20, 10))
    given = [("slow disk",), ("slow disk", "few cores"), ("few cores",), ("no clocks",)]
    made = [replace(report, warnings=texts) for report, texts in zip(made, given, strict=True)]
    assert unsaid(made) == ["ranks 1, 2: few cores", "rank 3: no clocks"]
    assert unsaid([]) == []
    many = [made[0], *(replace(made[1], ranks=Ranks(rank, 12)) for rank in range(1, 12))]
    assert unsaid(many) == ["ranks 1, 2, 3, 4, 5, 6, 7, 8 and 3 more: few cores"]


def test_each_node_is_described_once() -> None:
    made, _ = reports(times(4, 20, 0), times(4, 20, 10))
    made = [replace(report, environment={"cpu": f"of rank {report.ranks.rank}"}) for report in made]
    assert node_facts(made) == {
        "n0": {"ranks": [0, 1], "cpu": "of rank 0"},
        "n1": {"ranks": [2, 3], "cpu": "of rank 2"},
    }

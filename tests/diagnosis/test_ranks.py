"""Planted jobs of several ranks: rank, cause and lost share are the planted ones, and equal ranks have no straggler."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from loaderlab import metrics
from loaderlab.diagnosis.rank_steps import FLOAT64
from loaderlab.diagnosis.rank_words import inconclusive
from loaderlab.diagnosis.ranks import LOADER, MOVING, RankFacts, RankSteps, RanksVerdict, judge_ranks
from loaderlab.meter.summary import summarize
from tests.diagnosis.job_of_steps import job_steps
from tests.diagnosis.planted_ranks import ALL_REDUCE_MS, BATCH, from_steps, jittered, ranks_of, steps_of, times

STEPS = 120


def judged(starved: FLOAT64, compute: FLOAT64) -> RanksVerdict:
    """The verdict from the meter's steps. The job's own steps have the same lost share."""
    steps = steps_of(starved, compute)
    verdict = judge_ranks(from_steps(steps), len(steps))
    on_device = steps_of(starved, compute, on_device=True)
    same = judge_ranks(from_steps(on_device), len(steps))
    assert (same.straggler is None) == (verdict.straggler is None)
    assert verdict.lost_pct == pytest.approx(same.lost_pct, abs=1e-3)
    for ranks in (steps, on_device):
        figures = summarize(job_steps(ranks))
        assert figures[metrics.STARVED_PCT] == pytest.approx(verdict.lost_pct, abs=1e-3)
        expected_s = float(((starved + compute).max(axis=0) + ALL_REDUCE_MS).sum()) / 1e3
        assert figures[metrics.WINDOW_S] == pytest.approx(expected_s, rel=1e-6)
        assert figures[metrics.RATE] == pytest.approx(len(steps) * BATCH * STEPS / expected_s, rel=1e-6)
    return verdict


def outcome(verdict: RanksVerdict) -> tuple[int | None, str | None]:
    """Rank and cause."""
    straggler = verdict.straggler
    return (None, None) if straggler is None else (straggler.rank, straggler.cause)


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_one_slow_loader(num_ranks: int) -> None:
    starved = times(num_ranks, STEPS, 0.5)
    starved[1] = 8.5  # of a step of 8.5 + 9.5 + 2
    verdict = judged(starved, times(num_ranks, STEPS, 9.5))
    assert outcome(verdict) == (1, "loader")
    assert verdict.lost_pct == pytest.approx(100 * 8.5 / 20)
    assert verdict.excess_pct == pytest.approx(100 * 8 / 20)
    assert verdict.straggler is not None
    assert verdict.straggler.critical
    assert verdict.tags() == {
        "straggler.rank": "1",
        "straggler.node": "n0",
        "straggler.cause": "loader",
        "straggler.level": "critical",
        "straggler.excess_pct": "40.0",
    }


@pytest.mark.parametrize("num_ranks", [2, 4, 8])
def test_a_slow_rank_that_moves(num_ranks: int) -> None:
    starved = times(num_ranks, STEPS, 0.0)
    starved[np.random.default_rng(0).integers(0, num_ranks, STEPS), np.arange(STEPS)] = 8.0
    verdict = judged(starved, times(num_ranks, STEPS, 10.0))
    assert outcome(verdict) == (None, "moving")
    assert verdict.lost_pct == pytest.approx(100 * 8 / 20)
    assert verdict.excess_pct == pytest.approx(100 * 8 / 20)
    assert verdict.tags() == {
        "straggler.cause": "moving",
        "straggler.level": "critical",
        "straggler.excess_pct": "40.0",
    }
    assert "the slow rank changes (rank " in verdict.sentence


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_one_larger_shard(num_ranks: int) -> None:
    """Larger files take longer to read; the sentence names the bytes and what else differs."""
    starved = times(num_ranks, STEPS, 0.0)
    starved[0] = 4.0
    facts = {rank: RankFacts(980.0, 4, 0.0, 100.0, "cpu") for rank in range(num_ranks)}
    facts[0] = RankFacts(412.0, 4, 0.0, 260.0, "cpu")
    verdict = judge_ranks(ranks_of(starved, times(num_ranks, STEPS, 10.0), facts), num_ranks)
    assert outcome(verdict) == (0, "loader")
    assert verdict.lost_pct == pytest.approx(100 * 4 / 16)
    assert verdict.straggler is not None
    assert verdict.straggler.differs == (
        "its loader alone delivers 412 samples/s, the others 980",
        "its share of the samples has 260 MiB, the others 100",
    )
    assert verdict.sentence == (
        "rank 0 (node n0) is the straggler: in a mean step, the other ranks wait up to 4.00 ms (25 % of the step) for its "
        "data; its loader alone delivers 412 samples/s, the others 980; its share of the samples has 260 MiB, the others "
        "100"
    )


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_a_slow_device(num_ranks: int) -> None:
    compute = times(num_ranks, STEPS, 10.0)
    compute[1] = 13.0
    verdict = judged(times(num_ranks, STEPS, 0.0), compute)
    assert outcome(verdict) == (1, "device")
    assert verdict.lost_pct == 0
    assert verdict.excess_pct == pytest.approx(100 * 3 / 15)


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_a_fast_rank_that_waits_loses_nothing(num_ranks: int) -> None:
    """One rank waits for 5 ms, but another computes for 10 ms longer."""
    starved, compute = times(num_ranks, STEPS, 0.0), times(num_ranks, STEPS, 10.0)
    compute[0], starved[1] = 20.0, 5.0
    verdict = judged(starved, compute)
    assert verdict.lost_pct == 0
    assert outcome(verdict) == (0, "device")  # of 22 ms, 10 or 5 ms of which the others wait for it


def test_a_wait_that_hides_behind_a_slower_device() -> None:
    starved, compute = times(2, STEPS, 0.0), times(2, STEPS, 10.0)
    compute[0], starved[1] = 20.0, 9.0
    verdict = judged(starved, compute)
    assert (verdict.lost_pct, outcome(verdict)) == (0, (None, None))


@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize(("wait", "lost"), [(0.0, 0.0), (10.0, 100 * 10 / 22)])
def test_all_ranks_equally_fed_or_starved(num_ranks: int, wait: float, lost: float) -> None:
    verdict = judged(times(num_ranks, STEPS, wait), times(num_ranks, STEPS, 10.0))
    assert outcome(verdict) == (None, None)
    assert verdict.lost_pct == pytest.approx(lost)
    assert verdict.excess_pct == 0
    assert verdict.tags() == {"straggler.excess_pct": "0.0"}
    assert verdict.sentence.startswith("no straggler: ")


def test_the_lost_time_of_steps_that_vary() -> None:
    random = np.random.default_rng(0)
    starved, compute = random.random((3, STEPS)) * 5, random.random((3, STEPS)) * 20
    lost = (starved + compute).max(axis=0) - compute.max(axis=0)
    total = ((starved + compute).max(axis=0) + ALL_REDUCE_MS).sum()
    assert judged(starved, compute).lost_pct == pytest.approx(100 * lost.sum() / total, abs=1e-4)


@pytest.mark.parametrize(
    ("excess", "warns", "critical"),
    [(0.9, False, False), (1.3, True, False), (3.5, True, True)],
)
def test_thresholds(excess: float, warns: bool, critical: bool) -> None:
    starved = times(2, STEPS, 0.0)
    starved[1] = excess  # of 10 + 1 + the excess
    verdict = judged(starved, times(2, STEPS, 8.0))
    assert (verdict.straggler is not None) == warns
    assert verdict.tags().get("straggler.level") == ("critical" if critical else "warning" if warns else None)


def test_half_loader_half_device() -> None:
    """The larger part is the cause, and the sentence has both."""
    starved, compute = times(2, STEPS, 0.0), times(2, STEPS, 10.0)
    starved[1], compute[1] = 3.0, 13.0
    verdict = judged(starved, compute)
    assert outcome(verdict) == (1, "loader")
    assert "for its data (3.00 ms) and its device (3.00 ms)" in verdict.sentence
    compute[1] = 14.0
    verdict = judged(starved, compute)
    assert outcome(verdict) == (1, "device")
    assert "for its device (4.00 ms) and its data (3.00 ms)" in verdict.sentence


@pytest.mark.parametrize("num_ranks", [3, 4, 8])
def test_a_slow_rank_that_changes_once(num_ranks: int) -> None:
    """Each of the two slow ranks is slower than the others on average; naming one would be wrong."""
    starved = times(num_ranks, STEPS, 0.0)
    starved[1, : STEPS // 2], starved[2, STEPS // 2 :] = 9.0, 9.0
    verdict = judged(starved, times(num_ranks, STEPS, 9.0))
    assert outcome(verdict) == (None, "moving")
    assert verdict.excess_pct == pytest.approx(100 * 9 / 20)


def test_a_rank_that_becomes_slow_late() -> None:
    starved = times(4, STEPS, 0.0)
    starved[3, 2 * STEPS // 3 :] = 20.0
    assert outcome(judged(starved, times(4, STEPS, 10.0))) == (3, "loader")


def test_a_loader_that_delivers_in_bursts() -> None:
    """With eight workers, a loader that is too slow stalls in every eighth step: this rank is slow all the time."""
    starved = times(4, STEPS, 0.0)
    starved[2, ::8] = 40.0
    assert outcome(judged(starved, times(4, STEPS, 10.0))) == (2, "loader")


@pytest.mark.parametrize("num_ranks", [2, 8])
def test_one_long_stall_is_no_straggler(num_ranks: int) -> None:
    starved = times(num_ranks, STEPS, 0.0)
    starved[1, 7] = 400.0
    verdict = judged(starved, times(num_ranks, STEPS, 10.0))
    assert verdict.excess_pct is not None
    assert verdict.excess_pct > 20
    assert outcome(verdict) == (None, None)


def test_a_slow_node() -> None:
    """Half of the ranks are slow; the sentence says so, and the facts are compared with the fast ones."""
    starved = times(8, STEPS, 0.0)
    starved[4:] = 6.0
    facts = {rank: RankFacts(cores=4.0 if rank < 4 else 1.0) for rank in range(8)}
    verdict = judge_ranks(ranks_of(starved, times(8, STEPS, 10.0), facts, ranks_per_node=4), 8)
    assert verdict.straggler is not None
    assert (verdict.straggler.node, verdict.straggler.nearly) == ("n1", (5, 6, 7))
    assert verdict.straggler.differs == ("it may use 1 core, the others 4",)
    assert "ranks 5, 6 and 7 are nearly as slow" in verdict.sentence


@pytest.mark.parametrize("num_ranks", [2, 4, 8, 64, 1024])
@pytest.mark.parametrize("part", ["starved", "compute", "both"])
@pytest.mark.parametrize("num_steps", [15, 200])
def test_noise_is_no_straggler(num_ranks: int, part: str, num_steps: int) -> None:
    """Equal ranks whose steps vary by 5 %, in the wait, the compute or both."""
    for seed in range(20 if num_ranks < 100 else 2):
        starved, compute = times(num_ranks, num_steps, 10.0), times(num_ranks, num_steps, 10.0)
        if part != "compute":
            starved = jittered(num_ranks, num_steps, 10.0, 0.1 if part == "starved" else 0.07, seed)
        if part != "starved":
            compute = jittered(num_ranks, num_steps, 10.0, 0.1 if part == "compute" else 0.07, seed + 1000)
        verdict = judge_ranks(ranks_of(starved, compute), num_ranks)
        assert outcome(verdict) == (None, None), (seed, verdict.sentence)


def test_slow_drifts_are_no_straggler() -> None:
    """Of a thousand ranks whose times drift by 5 %, one is slow and one is fast for most of 60 steps by chance."""
    random = np.random.default_rng(0)
    drift = np.empty((1024, 60))
    drift[:, 0] = random.standard_normal(1024)
    for step in range(1, 60):
        drift[:, step] = 0.9 * drift[:, step - 1] + math.sqrt(1 - 0.9**2) * random.standard_normal(1024)
    verdict = judge_ranks(ranks_of(times(1024, 60, 0.0), 20 + drift), 1024)
    assert verdict.excess_pct is not None
    assert verdict.excess_pct > 10
    assert outcome(verdict) == (None, None)


@pytest.mark.parametrize("num_steps", [60, 200])
def test_stalls_of_a_busy_machine_are_no_straggler(num_steps: int) -> None:
    """Each tenth step of each rank is 30 ms longer, at random: some rank has 10 % more of it than another by chance."""
    named, large = 0, 0
    for seed in range(100):
        stalls = np.where(np.random.default_rng(seed).random((2, num_steps)) < 0.1, 30.0, 0.0)
        verdict = judge_ranks(ranks_of(times(2, num_steps, 0.0), 10 + stalls), 2)
        named += verdict.straggler is not None
        if verdict.excess_pct is not None and verdict.excess_pct >= 10 and verdict.straggler is None:
            large += 1
            assert verdict.sentence.startswith("no straggler: ")
            assert "(95 % CI " in verdict.sentence
            assert verdict.tags().keys() == {"straggler.excess_pct"}
    assert named <= 2
    assert large >= 5


def test_a_straggler_needs_the_whole_interval_above_the_threshold() -> None:
    """Rank 1 takes 11 % longer on average. Whether it is named depends on how much its steps vary."""
    steady, uneven = times(2, STEPS, 10.0), times(2, STEPS, 10.0)
    steady[1] += 1.5
    uneven[1] += np.where(np.arange(STEPS) // 6 % 2, 2.4, 0.6)  # in each half of the twenty blocks of the interval
    named = judge_ranks(ranks_of(times(2, STEPS, 0.0), steady), 2)
    assert outcome(named) == (1, "device")
    doubted = judge_ranks(ranks_of(times(2, STEPS, 0.0), uneven), 2)
    assert named.excess_pct == pytest.approx(doubted.excess_pct, abs=0.1)
    assert outcome(doubted) == (None, None)
    assert doubted.sentence.startswith(
        "no straggler: the slowest, rank 1 (node n0), needs 11.1 % of a step longer than the fastest ("
    )
    assert doubted.sentence.endswith("), not certainly 10 %")


@pytest.mark.parametrize(
    ("cause", "who"), [(LOADER, "the slowest, rank 3 (node n1), "), (MOVING, "the slowest rank of a step ")]
)
def test_an_inconclusive_verdict_names_no_straggler(cause: str, who: str) -> None:
    starved = times(4, STEPS, 0.0)
    slow = 3 if cause == LOADER else np.arange(STEPS) % 4
    starved[slow, np.arange(STEPS)] = 8.0
    verdict = judge_ranks(ranks_of(starved, times(4, STEPS, 10.0)), 5)
    assert verdict.straggler is not None
    assert verdict.straggler.cause == cause
    doubted = inconclusive(verdict)
    assert doubted.tags() == {"straggler.excess_pct": "40.0"}
    assert doubted.sentence == (
        f"no straggler is named, since the verdict is inconclusive: {who}needs 40.0 % of a step longer than "
        f"{'the fastest' if cause == LOADER else 'the others'}, which may be chance; rank 4 is not judged: fewer than 15 measured steps"
    )
    assert inconclusive(doubted) == doubted


@pytest.mark.parametrize("num_ranks", [2, 64])
def test_what_all_ranks_share_hides_no_cause(num_ranks: int) -> None:
    """All ranks become three times as slow in the second half, and vary together from step to step."""
    shared = np.where(np.arange(120) < 60, 10.0, 30.0) * jittered(1, 120, 1.0, 0.2, seed=0)
    compute = jittered(num_ranks, 120, 1.0, 0.01, seed=1) * shared
    steady, moving = times(num_ranks, 120, 0.0), times(num_ranks, 120, 0.0)
    steady[1] = 4.0
    moving[np.random.default_rng(2).integers(0, num_ranks, 120), np.arange(120)] = 4.0
    assert outcome(judge_ranks(ranks_of(steady, compute), num_ranks)) == (1, "loader")
    assert outcome(judge_ranks(ranks_of(moving, compute), num_ranks)) == (None, "moving")


@pytest.mark.parametrize("num_steps", [15, 16, 17, 19])
def test_a_straggler_of_few_steps(num_steps: int) -> None:
    starved = times(64, num_steps, 0.0)
    starved[5] = 1.5
    verdict = judge_ranks(ranks_of(starved, jittered(64, num_steps, 10.0, 0.01, seed=0)), 64)
    assert outcome(verdict) == (5, "loader")


@pytest.mark.parametrize("num_ranks", [2, 4, 8, 64])
def test_planted_causes_are_recognised_in_noise(num_ranks: int) -> None:
    for seed in range(10):
        noise = jittered(num_ranks, 200, 10.0, 0.03, seed)
        steady, moving = times(num_ranks, 200, 0.0), times(num_ranks, 200, 0.0)
        steady[1] = 4.0
        moving[np.random.default_rng(seed).integers(0, num_ranks, 200), np.arange(200)] = 4.0
        assert outcome(judge_ranks(ranks_of(steady, noise), num_ranks)) == (1, "loader")
        assert outcome(judge_ranks(ranks_of(moving, noise), num_ranks)) == (None, "moving")


def test_uneven_loaders_are_moving() -> None:
    """Independent waits on all ranks, as long as half a step on average: each step waits for the unluckiest."""
    for num_ranks in (2, 4, 64):
        starved = np.random.default_rng(num_ranks).exponential(10.0, (num_ranks, 400))
        verdict = judge_ranks(ranks_of(starved, times(num_ranks, 400, 10.0)), num_ranks)
        assert outcome(verdict) == (None, "moving"), num_ranks


def test_uneven_compute_is_not_moving() -> None:
    compute = 10 + np.random.default_rng(0).exponential(10.0, (4, 400))
    assert outcome(judge_ranks(ranks_of(times(4, 400, 0.0), compute), 4)) == (None, None)


def part_of(rank: RankSteps, begin: int, end: int) -> RankSteps:
    """Some of the steps of a rank."""
    names = ("step", "starved_ms", "own_ms", "length_ms")
    return replace(rank, **{name: getattr(rank, name)[begin:end] for name in names})


def test_ranks_that_measured_different_steps_are_joined_by_step() -> None:
    """Rank 1 is slow in every other step. Joined by position instead of step, the lost time would be another."""
    starved = times(2, STEPS, 0.0)
    starved[0, ::2], starved[1, ::2] = 6.0, 9.0
    ranks = ranks_of(starved, times(2, STEPS, 10.0))
    verdict = judge_ranks([part_of(ranks[0], 1, 100), part_of(ranks[1], 4, STEPS)], 2)
    lost = starved.max(axis=0)[4:100]
    assert verdict.lost_pct == pytest.approx(100 * lost.sum() / (lost + 12).sum())
    steps = steps_of(starved, times(2, STEPS, 10.0))
    job = job_steps([steps[0][1:100], steps[1][4:]])
    assert [step.step for step in job] == list(range(4, 100))
    assert summarize(job)[metrics.STARVED_PCT] == pytest.approx(verdict.lost_pct)


def test_ranks_with_too_few_steps_are_not_judged() -> None:
    starved = times(4, STEPS, 0.0)
    starved[1], starved[3] = 9.0, 50.0
    ranks = ranks_of(starved, times(4, STEPS, 10.0))
    verdict = judge_ranks([ranks[0], ranks[1], part_of(ranks[3], 0, 14)], 4)
    assert verdict.unmeasured == (2, 3)
    assert outcome(verdict) == (1, "loader")
    assert verdict.sentence.endswith("ranks 2 and 3 are not judged: fewer than 15 measured steps")


@pytest.mark.parametrize(
    ("measured", "sentence"),
    [
        (1, "ranks are not compared: only 1 of 4 ranks has 15 measured steps or more"),
        (0, "ranks are not compared: none of 4 ranks has 15 measured steps or more"),
    ],
)
def test_one_measured_rank_at_most(measured: int, sentence: str) -> None:
    ranks = ranks_of(times(4, STEPS, 5.0), times(4, STEPS, 10.0))
    verdict = judge_ranks(ranks[:measured], 4)
    assert (verdict.lost_pct, verdict.excess_pct, verdict.straggler) == (None, None, None)
    assert (verdict.tags(), verdict.sentence) == ({}, sentence)


def test_too_few_common_steps() -> None:
    ranks = ranks_of(times(2, STEPS, 5.0), times(2, STEPS, 10.0))
    verdict = judge_ranks([part_of(ranks[0], 0, 60), part_of(ranks[1], 50, STEPS)], 2)
    assert verdict.lost_pct is None
    assert verdict.sentence == "ranks are not compared: they have fewer than 15 measured steps in common"


def test_a_job_of_one_rank() -> None:
    verdict = judge_ranks(ranks_of(times(1, STEPS, 5.0), times(1, STEPS, 10.0)), 1)
    assert verdict.lost_pct == pytest.approx(100 * 5 / 17)
    assert (verdict.excess_pct, verdict.straggler, verdict.tags()) == (None, None, {})


def test_facts_that_do_not_explain_a_slow_loader() -> None:
    """Small differences, and those in the other direction, are not named; reads from the disk are named either way."""
    starved = times(3, STEPS, 0.0)
    starved[0] = 9.0
    facts = {1: RankFacts(980.0, 4, 10.0, 100.0), 2: RankFacts(980.0, 4, 10.0, 100.0)}
    compute = times(3, STEPS, 10.0)

    def differs(own: RankFacts) -> tuple[str, ...]:
        straggler = judge_ranks(ranks_of(starved, compute, facts | {0: own}), 3).straggler
        assert straggler is not None
        return straggler.differs

    assert differs(RankFacts(900.0, 4, 10.5, 105.0)) == ()
    assert differs(RankFacts(2000.0, 8, 10.0, 50.0)) == ()
    assert differs(RankFacts(read_mib_per_s=35.0)) == ("it reads 35.0 MiB/s from the disk, the others 10.0",)
    assert differs(RankFacts(read_mib_per_s=0.0)) == ("it reads 0.0 MiB/s from the disk, the others 10.0",)


def test_another_device() -> None:
    compute = times(3, STEPS, 10.0)
    compute[2] = 15.0
    facts = {0: RankFacts(device="H100"), 1: RankFacts(device="H100"), 2: RankFacts(400.0, device="A100")}
    verdict = judge_ranks(ranks_of(times(3, STEPS, 0.0), compute, facts), 3)
    assert verdict.straggler is not None
    assert verdict.straggler.differs == ("its device is A100, the others' H100",)


def test_the_jobs_steps() -> None:
    starved = np.array([[1.0, 4.0], [3.0, 0.0]])
    compute = np.array([[10.0, 10.0], [9.0, 15.0]])
    steps = steps_of(starved, compute)
    steps = [[replace(step, loss=float(rank)) for step in own] for rank, own in enumerate(steps)]
    steps[1] = [replace(step, num_samples=96, disturbed=step.step == 1) for step in steps[1]]
    job = job_steps(iter(steps))  # ranks may come one after the other
    assert [step.lost_ms for step in job] == pytest.approx([12 - 10, 0.0])
    assert [step.starved_ms for step in job] == pytest.approx([2.0, 0.0])
    assert [step.num_samples for step in job] == [128, 128]
    assert [step.loss for step in job] == [0.75, 0.75]
    assert [step.disturbed for step in job] == [False, True]
    assert job_steps([]) == []
    assert job_steps([steps[0], []]) == []

"""The verdict on a job of several ranks: its lost time, and the rank that slows it down, with the cause. Pure.

Ranks are compared by their own time, s + c: starved time and own compute. The step time itself is no use, since the
all-reduce makes all steps equally long.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist

import numpy as np

from loaderlab.diagnosis.rank_steps import FLOAT64, INT64, JoinedSteps, RankFacts, RankSteps, join
from loaderlab.diagnosis.rank_verdict import (
    CRITICAL_PCT,
    DEVICE,
    LOADER,
    MOVING,
    WARNING_PCT,
    Excess,
    RanksVerdict,
    Straggler,
)
from loaderlab.diagnosis.rank_words import differences, sentence_of
from loaderlab.meter.series import LEAST_STEPS, ratio_interval

__all__ = [  # the public names of the three files
    "DEVICE",
    "LOADER",
    "MOVING",
    "RankFacts",
    "RankSteps",
    "RanksVerdict",
    "Straggler",
    "judge_ranks",
]

BLOCKS = 10  # at most, of at least LEAST_STEPS steps
FEW_BLOCKS = 5
LEAST_SHARE = 2 / 3  # of the excess of all blocks: a straggler has it, otherwise the slow rank changes
LARGEST_SHARE = 0.9  # of the excess of all steps: if one rank has more, the slow rank does not change
PLAIN_NOISE_PCT = 5.0  # a larger deviation of a rank's own time from step to step is worth reporting
BEYOND_NOISE_X = 2.0
NEARLY = 0.25  # a rank is nearly as slow as the straggler if less than this part of the excess is between them


def judge_ranks(ranks: Sequence[RankSteps], num_ranks: int) -> RanksVerdict:
    """The verdict on a job.

    Args:
        ranks: the ranks whose steps are known.
        num_ranks: of the job.
    """
    judged = sorted((rank for rank in ranks if len(rank.step) >= LEAST_STEPS), key=lambda rank: rank.rank)
    unmeasured = tuple(sorted(set(range(num_ranks)) - {rank.rank for rank in judged}))
    verdict = RanksVerdict(num_ranks, unmeasured, None, None, None)
    steps = join(judged) if judged else None
    if steps is None or steps.num_steps < LEAST_STEPS or (len(judged) == 1 and num_ranks > 1):
        return replace(verdict, sentence=sentence_of(verdict, None, None))
    verdict = replace(verdict, lost_pct=100 * float(steps.lost_ms.sum() / steps.length_ms.sum()))
    if len(judged) == 1:
        return replace(verdict, sentence=sentence_of(verdict, steps, None))
    own = steps.own_ms.mean(axis=1)
    worst, best = int(own.argmax()), int(own.argmin())
    excess = excess_of(steps, worst, best)
    straggler = _straggler(steps, worst, excess)
    excess_pct = excess.pct if straggler is None else straggler.excess_pct
    verdict = replace(verdict, excess_pct=excess_pct, straggler=straggler)
    return replace(verdict, sentence=sentence_of(verdict, steps, excess))


def excess_of(steps: JoinedSteps, worst: int, best: int) -> Excess:
    """The excess of one row over another."""
    ms = float(steps.own_ms[worst].mean() - steps.own_ms[best].mean())
    starved_ms = float(steps.starved_ms[worst].mean() - steps.starved_ms[best].mean())
    interval_pct = _interval_pct(steps.own_ms[worst] - steps.own_ms[best], steps)
    pct = 100 * ms / float(steps.length_ms.mean())
    return Excess(ms, starved_ms, pct, interval_pct, _is_beyond_noise(steps, ms))


def _straggler(steps: JoinedSteps, worst: int, excess: Excess) -> Straggler | None:
    """The straggler, a rank or a slow rank that changes; None if there is none."""
    is_slow = excess.is_certain
    if is_slow and (excess.starved_ms < excess.compute_ms or _stays_slow(steps, worst)):
        return _steady(steps, worst, excess)
    moving_pct = _moving_pct(steps)
    if moving_pct is not None:
        return Straggler(None, "", MOVING, moving_pct, moving_pct >= CRITICAL_PCT)
    return _steady(steps, worst, excess) if is_slow else None


def _steady(steps: JoinedSteps, worst: int, excess: Excess) -> Straggler:
    """The rank as a straggler, with what differs from the ranks that are not nearly as slow."""
    own = steps.own_ms.mean(axis=1)
    slow = own >= own[worst] - NEARLY * excess.ms
    rank = steps.ranks[worst]
    cause = LOADER if excess.starved_ms >= excess.compute_ms else DEVICE
    others = [other.facts for other, is_slow in zip(steps.ranks, slow, strict=True) if not is_slow]
    return Straggler(
        rank.rank,
        rank.node,
        cause,
        excess.pct,
        excess.pct >= CRITICAL_PCT,
        differences(rank.facts, others, of_loader=cause == LOADER),
        tuple(steps.ranks[row].rank for row in np.flatnonzero(slow).tolist() if row != worst),
    )


def _interval_pct(excess: FLOAT64, steps: JoinedSteps) -> tuple[float, float] | None:
    """95 % confidence interval of an excess as a percentage of the step; None with too few steps.

    A straggler's interval is above WARNING_PCT as a whole: on a busy machine, stalls give some rank such an excess by chance.
    """
    interval = ratio_interval(list(excess), list(steps.length_ms))
    return None if interval is None else (100 * interval[0], 100 * interval[1])


def _is_beyond_noise(steps: JoinedSteps, excess_ms: float) -> bool:
    """Whether the excess is twice what the slowest and the fastest of so many equal ranks differ by.

    This comes from the standard error of a typical rank's mean: from few long blocks, since consecutive steps resemble each other,
    and without what all ranks share.
    """
    starts = _starts(steps, FEW_BLOCKS)
    means = np.add.reduceat(steps.own_ms, starts, axis=1) / np.diff([*starts, steps.num_steps])
    count = len(steps.ranks)
    of_one = math.sqrt(count / (count - 1))  # the mean over ranks contains each rank
    error_ms = of_one * float(np.median((means - means.mean(axis=0)).std(axis=1, ddof=1))) / math.sqrt(FEW_BLOCKS)
    return excess_ms > BEYOND_NOISE_X * error_ms * (_normal_place(count, count) - _normal_place(1, count))


def _stays_slow(steps: JoinedSteps, worst: int) -> bool:
    """Whether this rank has most of the excess of all blocks of steps. Otherwise another rank is slow at other times.

    Blocks, because a loader with n workers may stall in every n-th step only. A rank that becomes slow late has all of the
    excess too, since no other rank is slow before.
    """
    count = max(1, min(BLOCKS, steps.num_steps // LEAST_STEPS))
    own = np.add.reduceat(steps.own_ms, _starts(steps, count), axis=1)
    excess = own - own.min(axis=0)
    return bool(excess[worst].sum() >= LEAST_SHARE * excess.max(axis=0).sum())


def _starts(steps: JoinedSteps, count: int) -> INT64:
    """The first step of each of ``count`` blocks."""
    return np.arange(count, dtype=np.int64) * steps.num_steps // count


def _moving_pct(steps: JoinedSteps) -> float | None:
    """By how much the slowest rank of each step exceeds the others' median, percent of the step; None if the slow rank does
    not change, the excess is small or plain noise, or it is not starved time.

    In each step some rank is the slowest, and the more ranks there are, the slower it is: of 64 equal ranks whose steps vary
    by 5 %, it exceeds the median by 12 %. So the excess has to be twice what normally distributed noise gives. Comparing with
    the median and not with the fastest rank halves the influence of noise. Noise above 5 % of the step is not forgiven: the
    job does lose that time.
    """
    middle = (len(steps.ranks) - 2) // 2  # of the others, in ascending order
    slowest = (steps.slowest, np.arange(steps.num_steps))
    excess = steps.own_ms[slowest] - np.partition(steps.own_ms, middle, axis=0)[middle]
    starved = steps.starved_ms[slowest] - np.partition(steps.starved_ms, middle, axis=0)[middle]
    pct = 100 * float(excess.sum() / steps.length_ms.sum())
    by_rank = np.bincount(steps.slowest, weights=excess)
    changes = by_rank.max() <= LARGEST_SHARE * by_rank.sum()
    interval_pct = _interval_pct(excess, steps)
    if not changes or interval_pct is None or interval_pct[0] < WARNING_PCT or starved.sum() < excess.sum() / 2:
        return None
    return pct if pct >= BEYOND_NOISE_X * _noise_pct(steps, middle) else None


def _noise_pct(steps: JoinedSteps, middle: int) -> float:
    """The expected excess of the slowest rank over the others' median if all ranks are equal and their steps vary normally,
    percent of the step. The deviation is robust, so few stalls do not change it, and without what all ranks share."""
    count, shared = len(steps.ranks), steps.own_ms.mean(axis=0)
    deviations = [float(np.median(np.abs(own - shared - np.median(own - shared)))) for own in steps.own_ms]
    of_one = math.sqrt(count / (count - 1))
    deviation_pct = 100 * of_one * 1.4826 * float(np.median(deviations)) / float(steps.length_ms.mean())
    return min(deviation_pct, PLAIN_NOISE_PCT) * (_normal_place(count, count) - _normal_place(middle + 1, count))


def _normal_place(place: int, count: int) -> float:
    """The expected value of the ``place``-th smallest of ``count`` standard normal numbers (approximation: Blom, 1958)."""
    return NormalDist().inv_cdf((place - 0.375) / (count + 0.25))

"""Sentences about a job of several ranks. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import numpy as np

from loaderlab import metrics
from loaderlab.diagnosis.rank_steps import JoinedSteps, RankFacts, RankSteps
from loaderlab.diagnosis.rank_verdict import LOADER, WARNING_PCT, Excess, RanksVerdict, Straggler
from loaderlab.meter.series import LEAST_STEPS

DIFFERS = 0.1  # a smaller relative difference explains nothing
MIXED = 0.2  # a smaller part of the excess is not mentioned
MOST_NAMED = 4  # ranks; of more, only the number is given


def differences(slow: RankFacts, others: Sequence[RankFacts], *, of_loader: bool) -> tuple[str, ...]:
    """What may explain that a rank is slow: each fact that differs from the median of the others by at least 10 %.

    Args:
        of_loader: its loader is slow; otherwise its device is.
    """
    if not of_loader:
        names = _names(slow.device, [facts.device for facts in others])
        return (f"its device is {names[0]}, the others' {names[1]}",) if names else ()
    rate, reads, mib = (
        metrics.metric(name) for name in (metrics.LOADER_RATE, metrics.READ_MIB_PER_S, metrics.READ_MIB)
    )
    texts = []
    if (pair := _pair(slow.loader_rate, [facts.loader_rate for facts in others])) and pair[0] < pair[1]:
        texts.append(f"its loader alone delivers {rate.quantity(pair[0])}, the others {rate.number(pair[1])}")
    pair = _pair(slow.read_mib_per_s, [facts.read_mib_per_s for facts in others])
    if pair and reads.number(pair[0]) != reads.number(pair[1]):
        texts.append(f"it reads {reads.quantity(pair[0])} from the disk, the others {reads.number(pair[1])}")
    if (pair := _pair(slow.cores, [facts.cores for facts in others])) and pair[0] < pair[1]:
        texts.append(f"it may use {pair[0]:g} {'core' if pair[0] == 1 else 'cores'}, the others {pair[1]:g}")
    if (pair := _pair(slow.shard_mib, [facts.shard_mib for facts in others])) and pair[0] > pair[1]:
        texts.append(f"its share of the samples has {mib.quantity(pair[0])}, the others {mib.number(pair[1])}")
    return (*texts, *_loader_differences(slow, others))


def _loader_differences(slow: RankFacts, others: Sequence[RankFacts]) -> list[str]:
    """What differs between the loaders and their data."""
    texts = []
    if (pair := _pair(slow.num_workers, [facts.num_workers for facts in others])) and pair[0] < pair[1]:
        texts.append(f"its loader has {pair[0]:g} {'worker' if pair[0] == 1 else 'workers'}, the others {pair[1]:g}")
    if pair := _pair(slow.num_samples, [facts.num_samples for facts in others]):
        texts.append(f"its dataset has {pair[0]:,.0f} samples, the others {pair[1]:,.0f}")
    if pair := _pair(slow.num_batches, [facts.num_batches for facts in others]):
        texts.append(f"its epoch has {pair[0]:,.0f} batches, the others {pair[1]:,.0f}")
    if names := _names(slow.file_system, [facts.file_system for facts in others]):
        texts.append(f"its data is on {names[0]}, the others' on {names[1]}")
    return texts


def _names(own: str, others: Sequence[str]) -> tuple[str, str] | None:
    """The name and the most frequent one of the others; None if they are equal or not known."""
    known = [name for name in others if name]
    usual = max(known, key=known.count, default="")
    return (own, usual) if own and usual and own != usual else None


def _pair(own: float | None, others: Sequence[float | None]) -> tuple[float, float] | None:
    """The value and the median of the others; None if they differ by less than 10 % or are not known."""
    known = [value for value in others if value is not None]
    if own is None or not known:
        return None
    usual = median(known)
    return (own, usual) if abs(own - usual) >= DIFFERS * max(own, usual) > 0 else None


def sentence_of(verdict: RanksVerdict, steps: JoinedSteps | None, excess: Excess | None) -> str:
    """The verdict in one sentence, without a full stop.

    Args:
        steps: None if too few were measured.
        excess: of the slowest rank over the fastest; None if only one rank was measured.
    """
    if steps is None:
        return _not_judged(verdict)
    parts = []
    if verdict.straggler is not None and verdict.straggler.rank is None:
        parts.append(_moving(verdict.straggler, steps))
    elif verdict.straggler is not None and excess is not None:
        parts += _steady(verdict.straggler, excess)
    elif excess is not None:
        worst = steps.ranks[int(steps.own_ms.mean(axis=1).argmax())]
        parts.append(f"no straggler: the slowest, {_named(worst)}, {_longer(excess.pct)}{_doubt(excess)}")
    if verdict.unmeasured:
        parts.append(_unmeasured(verdict.unmeasured))
    return "; ".join(parts)


def inconclusive(verdict: RanksVerdict) -> RanksVerdict:
    """The verdict on the ranks of a job whose own verdict is inconclusive: it names no straggler as a fact."""
    straggler = verdict.straggler
    if straggler is None:
        return verdict
    if straggler.rank is None:
        excess = f"the slowest rank of a step {_longer(straggler.excess_pct, 'the others')}"
    else:
        excess = f"the slowest, rank {straggler.rank}{_at(straggler.node)}, {_longer(straggler.excess_pct)}"
    text = f"no straggler is named, since the verdict is inconclusive: {excess}, which may be chance"
    more = f"; {_unmeasured(verdict.unmeasured)}" if verdict.unmeasured else ""
    return replace(verdict, straggler=None, sentence=f"{text}{more}")


def _longer(excess_pct: float, others: str = "the fastest") -> str:
    return f"needs {excess_pct:.1f} % of a step longer than {others}"


def _doubt(excess: Excess) -> str:
    """Why an excess that looks like that of a straggler is not certain; empty for a small one."""
    if excess.pct < WARNING_PCT:
        return ""
    interval = ""
    if excess.interval_pct is not None:
        low, high = excess.interval_pct
        interval = f" (95 % CI {low:.1f} to {high:.1f})"
        if excess.beyond_chance and low > 0:
            return f"{interval}, not certainly {WARNING_PCT:.0f} %"
    return f"{interval}, which may be chance"


def _at(node: str) -> str:
    return f" (node {node})" if node else ""


def _steady(straggler: Straggler, excess: Excess) -> list[str]:
    ms = metrics.metric(metrics.STEP_MS)
    causes = {"data": excess.starved_ms, "device": excess.compute_ms}
    first, second = ("data", "device") if straggler.cause == LOADER else ("device", "data")
    reason = f"its {first}"
    if causes[second] >= MIXED * excess.ms:
        reason = f"its {first} ({ms.quantity(causes[first])}) and its {second} ({ms.quantity(causes[second])})"
    wait = f"the other ranks wait up to {ms.quantity(excess.ms)} ({excess.pct:.0f} % of the step) for {reason}"
    parts = [f"rank {straggler.rank}{_at(straggler.node)} is the straggler: in a mean step, {wait}"]
    if straggler.nearly:
        parts.append(f"{ranks_text(straggler.nearly)} {_are(straggler.nearly)} nearly as slow")
    return parts + list(straggler.differs)


def _moving(straggler: Straggler, steps: JoinedSteps) -> str:
    ms = metrics.metric(metrics.STEP_MS)
    counts = np.bincount(steps.slowest)
    excess_ms = straggler.excess_pct / 100 * float(steps.length_ms.mean())
    slowest, most = int(counts.argmax()), math.ceil(100 * counts.max() / steps.num_steps)
    share = f"{_named(steps.ranks[slowest])} is the slowest most often, in {most} % of the steps"
    waits = f"a mean step waits {ms.quantity(excess_ms)} ({straggler.excess_pct:.0f} % of the step) for the data of its slowest rank"
    return f"the slow rank changes ({share}): {waits}, so the loaders of all ranks are too slow or too uneven"


def _not_judged(verdict: RanksVerdict) -> str:
    measured = verdict.num_ranks - len(verdict.unmeasured)
    if verdict.unmeasured:
        counted = f"only {measured} of {verdict.num_ranks} ranks" if measured else f"none of {verdict.num_ranks} ranks"
        return f"ranks are not compared: {counted} {'has' if measured <= 1 else 'have'} {LEAST_STEPS} measured steps or more"
    return f"ranks are not compared: they have fewer than {LEAST_STEPS} measured steps in common"


def _unmeasured(ranks: Sequence[int]) -> str:
    return f"{ranks_text(ranks)} {_are(ranks)} not judged: fewer than {LEAST_STEPS} measured steps"


def _named(rank: RankSteps) -> str:
    return f"rank {rank.rank}{_at(rank.node)}"


def _are(ranks: Sequence[int]) -> str:
    return "is" if len(ranks) == 1 else "are"


def ranks_text(ranks: Sequence[int]) -> str:
    """``rank 3``, ``ranks 3, 4 and 5``, ``12 ranks``."""
    if len(ranks) > MOST_NAMED:
        return f"{len(ranks):,} ranks"
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"

"""Joins the results of all ranks on rank 0: the metrics of the job, its verdict, and what each rank measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from loaderlab import metrics
from loaderlab.data.spec import EncodedImages, Split, UserItems
from loaderlab.data.stored_size import mean_stored_bytes
from loaderlab.device.environment import describe
from loaderlab.diagnosis.evidence import INCONCLUSIVE, LEAST_STEPS, Setup
from loaderlab.diagnosis.figures import NO_PROBES, LoopRecord, evidence_of, figures_of
from loaderlab.diagnosis.rank_figures import job_figures, without_sums
from loaderlab.diagnosis.rank_rows import RankRecord, job_steps_of_rows
from loaderlab.diagnosis.rank_words import inconclusive
from loaderlab.diagnosis.ranks import RankFacts, RankSteps, RanksVerdict, judge_ranks
from loaderlab.diagnosis.verdict import Verdict, judge
from loaderlab.lines.shares import SlowLines
from loaderlab.loaders.contract import EpochPlan
from loaderlab.meter.rates import ProbeResults, Rate
from loaderlab.meter.step_rows import rows_of
from loaderlab.runs.context import RunContext
from loaderlab.runs.measured_loop import Trained
from loaderlab.runs.prepare import Prepared
from loaderlab.runs.setup import setup_of
from loaderlab.system.machine import rank_cores

OF_SLOWEST = (  # of a job: those of the slowest loader, since all ranks wait for it
    metrics.EXPECTED_RATE,
    metrics.UTILIZATION_PCT,
    metrics.ACCELERATORS_FED,
    metrics.WORKERS_NEEDED,
    metrics.CORES_NEEDED,
)


@dataclass(frozen=True)
class RankReport(RankRecord):
    """What a rank of a run measured.

    Attributes:
        warnings: that it did not print.
    """

    probes: ProbeResults = NO_PROBES
    skipped: Sequence[str] = ()
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class JobResults:
    """The results of a job of several ranks.

    Attributes:
        loop: the record of the job's own steps.
        windows: the measured steps of each rank.
        lines: how a worker of rank 0 spends its time; None without a profile.
    """

    reports: Sequence[RankReport]
    windows: Sequence[RankSteps]
    loop: LoopRecord
    figures: Mapping[str, float]
    verdict: Verdict
    ranks: RanksVerdict
    lines: SlowLines | None = None


def report_of(
    context: RunContext, prepared: Prepared, trained: Trained, probes: ProbeResults, skipped: Sequence[str]
) -> RankReport:
    """The report of this rank."""
    loop, setup = trained.loop, setup_of(context, prepared)
    figures = {metrics.STARTUP_S: trained.startup_s, **figures_of(loop, probes, setup)}
    if prepared.spec.train.on_error.skip:
        figures[metrics.SKIPPED_SAMPLES] = float(len(skipped))
    facts = RankFacts(
        loader_rate=figures.get(metrics.LOADER_RATE),
        cores=float(rank_cores()),
        read_mib_per_s=figures.get(metrics.READ_MIB_PER_S),
        shard_mib=shard_mib(prepared.spec.train, prepared.plan),
        device=prepared.device.name,
    )
    warnings = [text.removeprefix("warning: ") for text in context.terminal.said if text.startswith("warning: ")]
    return RankReport(
        ranks=context.ranks,
        rows=rows_of(loop.steps),
        warmup_steps=loop.warmup_steps,
        parallel=loop.parallel,
        figures=figures,
        probes=probes,
        facts=facts,
        environment=describe(prepared.device),
        skipped=tuple(skipped),
        warnings=tuple(warnings),
    )


def shard_mib(split: Split, plan: EpochPlan) -> float | None:
    """The stored size of the samples that this rank reads in the first epoch, MiB; None if it is not known.

    A user's dataset that divides itself among the ranks can say it: its attribute ``shard_bytes``.
    """
    source = split.source
    if isinstance(source, UserItems):
        shard_bytes = getattr(source.dataset, "shard_bytes", None)
        return None if shard_bytes is None else float(shard_bytes) / 2**20
    if not isinstance(source, EncodedImages):
        return None
    ids = plan.ids(0)
    mean = mean_stored_bytes(source.take(ids)) if len(ids) else None
    return None if mean is None else mean * len(ids) / 2**20


def join_reports(reports: Sequence[RankReport], own: LoopRecord, setup: Setup) -> JobResults:
    """The results of the job.

    The verdict is about one rank: the job's lost time, the samples of all ranks divided by their number, and the slowest loader, for
    which all ranks wait. So its advice, such as a number of workers, is for each rank.

    Args:
        reports: of all ranks; after a failure, of the ranks whose steps are known.
        own: the loop of rank 0, for what is the same on all ranks.
        setup: of rank 0.
    """
    world_size = reports[0].ranks.world_size
    windows = _common([report.window for report in reports])
    ranks = judge_ranks(windows, world_size)
    steps = [
        replace(step, num_samples=round(step.num_samples / len(reports)))
        for step in job_steps_of_rows(report.rows for report in reports)
    ]
    loop = replace(
        own,
        steps=steps,
        warmup_steps=max(report.warmup_steps for report in reports),
        parallel=max(report.parallel for report in reports),
        losses=[step.loss for step in steps[-len(own.losses) :]] if own.losses else [],
    )
    probes = _probes_of_job([report.probes for report in reports])
    job = figures_of(loop, probes, setup)
    job |= {name: world_size * job[name] for name in (metrics.RATE, metrics.EXPECTED_RATE) if name in job}
    figures = job_figures([report.figures for report in reports], job | {metrics.NUM_RANKS: float(world_size)})
    figures |= {name: job[name] for name in OF_SLOWEST if name in job}
    if ranks.excess_pct is not None:
        figures[metrics.STRAGGLER_EXCESS_PCT] = ranks.excess_pct
    if len(reports) < world_size:
        figures = without_sums(figures)
    clocks = [report.figures[metrics.CLOCKS_PCT] for report in reports if metrics.CLOCKS_PCT in report.figures]
    # the job's steps come from several ranks, which began at different times
    evidence = replace(evidence_of(loop, probes), clocks_pct=max(clocks, default=None))
    verdict = judge(evidence, setup)
    if verdict.grade == INCONCLUSIVE:
        ranks = inconclusive(ranks)
    if ranks.sentence:
        verdict = replace(verdict, because=f"{verdict.because}; {ranks.sentence}")
    return JobResults(reports, windows, loop, figures, verdict, ranks, evidence.lines)


def _common(windows: Sequence[RankSteps]) -> list[RankSteps]:
    """The steps that all judged ranks measured: the ranks of a failed job end at different steps. Others are left as they are."""
    judged = [window for window in windows if len(window.step) >= LEAST_STEPS]
    if not judged:
        return list(windows)
    numbers = judged[0].step
    for window in judged[1:]:
        numbers = np.intersect1d(numbers, window.step, assume_unique=True)
    kept = []
    for window in windows:
        if len(window.step) < LEAST_STEPS:
            kept.append(window)
            continue
        places = np.isin(window.step, numbers)
        times = {name: getattr(window, name)[places] for name in ("step", "starved_ms", "own_ms", "length_ms")}
        kept.append(replace(window, **times))
    return kept


def _probes_of_job(probes: Sequence[ProbeResults]) -> ProbeResults:
    """The probes of one rank of the job: the slowest loader, and the mean of the others. One is absent if a rank has none."""
    slowest: ProbeResults | None = None
    if all(each.loader_alone is not None for each in probes):
        slowest = min(probes, key=lambda each: 0.0 if each.loader_alone is None else each.loader_alone.samples_per_s)
    return ProbeResults(
        ceiling=_mean_rate([each.ceiling for each in probes]),
        contended=_mean_rate([each.contended for each in probes]),
        loader_alone=None if slowest is None else slowest.loader_alone,
        stages=None if slowest is None else slowest.stages,
    )


def _mean_rate(rates: Sequence[Rate | None]) -> Rate | None:
    measured_rates = [rate for rate in rates if rate is not None]
    if len(measured_rates) < len(rates):
        return None
    intervals = [rate.interval for rate in measured_rates if rate.interval is not None]
    interval = None
    if len(intervals) == len(rates):
        interval = (fmean(low for low, _ in intervals), fmean(high for _, high in intervals))
    return Rate(fmean(rate.samples_per_s for rate in measured_rates), interval)


def unsaid(reports: Sequence[RankReport]) -> list[str]:
    """The warnings of the other ranks that rank 0 did not print: each once, with the ranks that have it."""
    if not reports:
        return []
    own = set(reports[0].warnings)
    ranks: dict[str, list[int]] = {}
    for report in reports[1:]:
        for text in report.warnings:
            if text not in own:
                ranks.setdefault(text, []).append(report.ranks.rank)
    return [f"rank{'s' * (len(who) > 1)} {_listed(who)}: {text}" for text, who in ranks.items()]


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return shown if len(numbers) <= 8 else f"{shown} and {len(numbers) - 8} more"

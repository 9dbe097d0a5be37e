"""The fourth stage of a run: computes its metrics and its verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from loaderlab import metrics
from loaderlab.config import AUTO, refuse
from loaderlab.diagnosis.evidence import LEAST_STEPS, Evidence
from loaderlab.diagnosis.figures import NO_PROBES, LoopRecord, evidence_of, figures_of
from loaderlab.diagnosis.verdict import Verdict, judge
from loaderlab.lines.control import LIMITS_S
from loaderlab.lines.shares import SlowLines
from loaderlab.lines.words import doubt
from loaderlab.meter.phases import own_cost_ns
from loaderlab.meter.rates import ProbeResults
from loaderlab.runs.context import RunContext
from loaderlab.runs.job import RunWindow
from loaderlab.runs.measured_loop import Trained
from loaderlab.runs.prepare import Prepared
from loaderlab.runs.rank_results import JobResults, RankReport, join_reports
from loaderlab.runs.setup import setup_of


@dataclass(frozen=True)
class Judged:
    """The metrics of a run, by name, and its verdict.

    Attributes:
        job: of a job of several ranks, on rank 0.
        evidence, threads: what the verdict is based on, and the number of torch threads; None for a job of several ranks.
        lines: how a worker spends its time; None without a profile.
    """

    figures: Mapping[str, float]
    verdict: Verdict
    loop: LoopRecord
    job: JobResults | None = None
    evidence: Evidence | None = None
    threads: int | None = None
    lines: SlowLines | None = None

    @property
    def not_finite(self) -> list[str]:
        """Metrics that ended as NaN or infinity."""
        return [name for name, value in self.figures.items() if not np.isfinite(value)]


def with_own_cost(context: RunContext, prepared: Prepared, loop: LoopRecord) -> LoopRecord:
    """The record with the meter's own cost, if any step was measured and the device has memory to measure it.

    Do not call it after a failure on a GPU: an error of CUDA is raised again by every later call.
    """
    if not loop.window:
        return loop
    try:
        return replace(loop, own_cost_ns=own_cost_ns(prepared.device, sync=context.config.measure.sync))
    except torch.OutOfMemoryError:
        context.terminal.warn("the meter's own cost was not measured: not enough device memory")
        return loop


def judge_run(
    context: RunContext, prepared: Prepared, trained: Trained, probes: ProbeResults, num_skipped: int
) -> Judged:
    """The metrics and the verdict of a run with at least one step."""
    loop, setup = trained.loop, setup_of(context, prepared)
    values: dict[str, float | None] = {
        metrics.STARTUP_S: trained.startup_s,
        metrics.SKIPPED_SAMPLES: float(num_skipped) if prepared.spec.train.on_error.skip else None,
        **figures_of(loop, probes, setup),
        **trained.validation,
        **trained.measured,
    }
    figures = {name: value for name, value in values.items() if value is not None}
    evidence = evidence_of(loop, probes)
    return Judged(figures, judge(evidence, setup), loop, evidence=evidence, threads=setup.threads, lines=evidence.lines)


def window_of(judged: Judged, process_started: float) -> RunWindow | None:
    """What the tuner needs of a run; None without a measured step. It covers the whole window: steps that starved count, also if later ones
    did not.

    Args:
        process_started: when the run's process started, in seconds since 1970.
    """
    threads, loop, figures = judged.threads, judged.loop, judged.figures
    if judged.evidence is None or threads is None:
        return None
    evidence = evidence_of(replace(loop, one_loader=False, profiled=None), NO_PROBES)
    if evidence.rate is None:
        return None
    startup_s, first_s = figures.get(metrics.STARTUP_S), figures.get(metrics.FIRST_BATCH_S)
    num_samples = sum(step.num_samples for step in loop.steps)
    return RunWindow(
        num_steps=evidence.num_steps,
        rate=evidence.rate,
        starved_pct=evidence.starved_pct,
        starved_interval=evidence.starved_interval,
        delivery_pct=evidence.delivery_pct,
        late_steps=evidence.late_steps,
        ceiling_by_threads=dict(judged.evidence.ceiling_by_threads),
        torch_threads=threads,
        cpu_s_per_sample=loop.used["cpu_s"] / num_samples if "cpu_s" in loop.used and num_samples else None,
        first_step_at=None if startup_s is None or first_s is None else process_started + startup_s + first_s,
    )


def judge_job(context: RunContext, prepared: Prepared, trained: Trained, reports: Sequence[RankReport]) -> Judged:
    """The metrics and the verdict of a job of several ranks."""
    job = join_reports(reports, trained.loop, setup_of(context, prepared))
    figures = {**job.figures, **trained.validation, **trained.measured}
    return Judged(figures, job.verdict, job.loop, job, lines=job.lines)


def _longer(context: RunContext, prepared: Prepared) -> str:
    """The override for a run of at least twice the length."""
    config = context.config
    if config.measure.seconds is not None:
        return f"measure.seconds={2 * config.measure.seconds:g}"
    return f"steps={max(500, 2 * (prepared.length.num_steps() or 0))}"


def warn_of_results(context: RunContext, prepared: Prepared, judged: Judged, *, failed: bool) -> None:
    """Warns about doubtful results, and says what to change."""
    loss = judged.figures.get(metrics.TRAIN_LOSS)
    if loss is not None and not np.isfinite(loss):
        context.terminal.warn(f"the training loss is {loss}: lower optimizer.lr, or precision=fp32")
    profiled = judged.loop.profiled
    if profiled is not None and (why := profiled.problem(judged.lines)):
        longer = _longer(context, prepared)
        context.terminal.warn(f"measure.workers=true: no slow lines, since {why}. A longer run may have some: {longer}")
    if judged.lines is not None and (why := doubt(judged.lines)):
        measure = context.config.measure
        ended_early = judged.lines.seconds < 0.9 * measure.workers_s
        more = f"measure.workers_s={min(LIMITS_S[1], 2 * measure.workers_s):g}"
        context.terminal.warn(
            str(refuse("measure.workers", "true", why, _longer(context, prepared) if ended_early else more))
        )
    count, loop = len(judged.loop.window), judged.loop
    if count >= LEAST_STEPS or failed:
        return
    per_epoch, batch_size = prepared.parts.loader.num_steps, context.config.batch_size
    if per_epoch is not None and per_epoch <= loop.parallel:
        context.terminal.warn(
            f"an epoch has {per_epoch} steps, and the first {loop.parallel} are never measured. Type for example: "
            f"batch_size={max(1, batch_size // (4 * loop.parallel))}"
        )
    else:
        context.terminal.warn(
            f"only {count} steps were measured after {loop.warmup_steps} warm-up steps; at least {LEAST_STEPS} are needed. Type "
            f"for example: steps={loop.warmup_steps + 10 * LEAST_STEPS}{' epochs=auto' * (context.config.epochs != AUTO)}"
        )

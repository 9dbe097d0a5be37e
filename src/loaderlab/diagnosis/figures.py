"""From the record of a loop and its probes to metrics and evidence: the same for a run and for a watched loop. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from loaderlab import metrics
from loaderlab.diagnosis.capacity import capacity_of
from loaderlab.diagnosis.evidence import Evidence, Setup, expected_rate
from loaderlab.diagnosis.line_figures import LineRecord, line_figures
from loaderlab.lines.control import Profiled
from loaderlab.meter import summary
from loaderlab.meter.rates import ProbeResults
from loaderlab.meter.sampler import DeviceSample, device_figures
from loaderlab.meter.series import change_point, ratio_interval
from loaderlab.meter.step import PHASES, Step
from loaderlab.meter.summary import mean_loss

NO_PROBES = ProbeResults()
UNMARKED = (metrics.TRANSFER_MS, metrics.HOST_TRANSFER_MS, metrics.DELIVERY_PCT)  # unknown if the loop does not mark it


@dataclass(frozen=True)
class LoopRecord:
    """The record of a loop.

    Attributes:
        steps: all complete steps, including warm-up.
        warmup_steps: unmeasured steps at the start of the loop; parallel: at the start of each epoch, see
            `loaderlab.meter.summary.measured`.
        epochs_ns, epoch_ends_ns, used: see `loaderlab.meter.phases.StepMeter`.
        cores: number of cores that the process may use.
        lookahead: number of batches that the loader prepares ahead.
        train_s: seconds in the loop; None if no epoch ended.
        device_samples: from NVML; own_pids: of this process and its descendants.
        host_peak_mib, device_peak_mib, worker_mib: None if not measured; see `loaderlab.meter.peaks.PeakMemory`.
        own_cost_ns: the meter's own time per step; None if not measured.
        losses: the last training loss is their mean; empty if there are none.
        phases_marked: forward, backward and optimizer are measured separately.
        delivery_marked: the transfer is measured separately too.
        one_loader: the same loaders feed all steps, so that a change of the starved share is one of their speed.
        profiled: the profile of a worker's lines; None without one.
    """

    steps: Sequence[Step]
    warmup_steps: int
    parallel: int
    epochs_ns: Sequence[tuple[int, int]]
    epoch_ends_ns: Sequence[int]
    used: Mapping[str, float]
    cores: int
    lookahead: int = 0
    train_s: float | None = None
    device_samples: Sequence[DeviceSample] = ()
    own_pids: Collection[int] = ()
    host_peak_mib: float | None = None
    worker_mib: float | None = None
    device_peak_mib: float | None = None
    own_cost_ns: float | None = None
    losses: Sequence[float] = ()
    phases_marked: bool = True
    delivery_marked: bool = True
    one_loader: bool = True
    profiled: LineRecord | None = None

    @property
    def window(self) -> list[Step]:
        """The measured steps."""
        return summary.measured(self.steps, self.warmup_steps, self.parallel)


def figures_of(loop: LoopRecord, probes: ProbeResults, setup: Setup | None) -> dict[str, float]:
    """Metric name to value; a metric that was not measured is absent."""
    window = loop.window
    figures = summary.summarize(window)
    if not loop.phases_marked:
        figures = summary.coarse(figures)
    if not loop.delivery_marked:
        figures = {name: value for name, value in figures.items() if name not in UNMARKED}
    named: dict[str, float | None] = {
        metrics.FIRST_BATCH_S: loop.steps[0].host[0] / 1e9 if loop.steps else None,
        metrics.TRAIN_S: loop.train_s,
        metrics.EPOCH_GAP_MS: summary.between_epochs_ms(loop.steps, loop.epoch_ends_ns),
        **usage(loop),
        **device_usage(loop),
        metrics.HOST_PEAK_MIB: loop.host_peak_mib,
        metrics.WORKER_MIB: loop.worker_mib,
        metrics.DEVICE_PEAK_MIB: loop.device_peak_mib,
        metrics.OVERHEAD_PCT: _overhead_pct(loop, figures.get(metrics.STEP_MS)),
        metrics.TRAIN_LOSS: mean_loss(loop.losses),
    }
    figures |= {name: value for name, value in named.items() if value is not None}
    return figures | _derived(evidence_of(loop, probes), probes, setup, figures.get(metrics.RATE))


def _overhead_pct(loop: LoopRecord, step_ms: float | None) -> float | None:
    return None if step_ms is None or loop.own_cost_ns is None else loop.own_cost_ns / 1e4 / step_ms


def evidence_of(loop: LoopRecord, probes: ProbeResults) -> Evidence:
    """The evidence from the steps of the measured window, the epochs around them and the probes."""
    window = loop.window
    change, whole_rate = None, None
    if loop.one_loader:
        change = change_point([step.starved_ms for step in window], [step.length_ms for step in window], loop.parallel)
    if change is not None:  # the verdict is about the steps after the change
        whole_rate = summary.summarize(window).get(metrics.RATE)
        window = window[change.index :]
        change = replace(change, index=window[0].step)
    figures = summary.summarize(window)
    starved, lengths = [step.starved_ms for step in window], [step.length_ms for step in window]
    used = usage(loop)
    evidence = Evidence(
        num_steps=len(window),
        wait_pct=figures.get(metrics.WAIT_PCT, 0.0),
        starved_pct=figures.get(metrics.STARVED_PCT, 0.0),
        starved_interval=_percent(ratio_interval(starved, lengths, loop.parallel)),
        delivery_pct=figures.get(metrics.DELIVERY_PCT, 0.0) if loop.delivery_marked else 0.0,
        gap_pct=summary.gap_pct(loop.steps, loop.epochs_ns, loop.epoch_ends_ns),
        change=change,
        rate=figures.get(metrics.RATE),
        whole_rate=whole_rate,
        rate_interval=summary.rate_interval(window, loop.parallel),
        drained_pct=figures.get(metrics.DRAINED_PCT),
        clocks_pct=summary.clocks_pct(loop.steps, loop.epochs_ns, loop.epoch_ends_ns),
        phases_ms={
            f"{prefix}{phase}": figures[names[phase]]
            for prefix, names in (("", metrics.PHASE_MS), ("host_", metrics.HOST_PHASE_MS))
            for phase in PHASES
            if names[phase] in figures
        },
        stages=probes.stages,
        cpu_pct=used.get(metrics.CPU_PCT),
        typical_share=_typical_share(starved),
        late_steps=_late_steps(starved, lengths),
        early_share=_early_share(window, loop.parallel + loop.lookahead),
        read_mib_per_s=used.get(metrics.READ_MIB_PER_S),
        ceiling_by_threads={threads: rate.samples_per_s for threads, rate in probes.ceiling_by_threads.items()},
    )
    evidence = _with_probes(evidence, probes)
    return evidence if loop.profiled is None else replace(evidence, lines=loop.profiled.lines(evidence))


def profiled_of(loop: LoopRecord) -> Profiled | None:
    """The slow lines of a loop, or why there are none; None without a profile."""
    return None if loop.profiled is None else loop.profiled.profiled(evidence_of(loop, NO_PROBES))


def _typical_share(starved: Sequence[float]) -> float | None:
    """See `Evidence.typical_share`; ``starved``: the starved time of each step. None if no step was starved."""
    mean = fmean(starved) if starved else 0.0
    return min(1.0, median(starved) / mean) if mean > 0 else None


def _late_steps(starved: Sequence[float], lengths: Sequence[float]) -> float | None:
    """See `Evidence.late_steps`; the starved time and the length of each step."""
    total, busy = sum(starved), sum(lengths) - sum(starved)
    if total <= 0 or busy <= 0:
        return None
    waits = sorted(starved)
    longest = next(wait for wait, up_to in zip(waits, itertools.accumulate(waits), strict=True) if up_to >= 0.9 * total)
    return longest / (busy / len(lengths))


def _early_share(window: Sequence[Step], num_early: int) -> float | None:
    """See `Evidence.early_share`; ``num_early``: number of steps at an epoch's start in which the queue fills."""
    early = [step.starved_ms for step in window if step.position < num_early]
    total = sum(step.starved_ms for step in window)
    return None if 2 * len(early) > len(window) or total <= 0 else sum(early) / total


def _with_probes(evidence: Evidence, probes: ProbeResults) -> Evidence:
    if probes.ceiling is not None:
        ceiling = probes.ceiling
        evidence = replace(evidence, ceiling=ceiling.samples_per_s, ceiling_interval=ceiling.interval)
    if probes.loader_alone is not None:
        alone = probes.loader_alone
        evidence = replace(evidence, loader_alone=alone.samples_per_s, loader_cores=alone.cores)
    if probes.contended is not None:
        evidence = replace(evidence, contended=probes.contended.samples_per_s)
    if probes.cold is not None and probes.warm is not None:
        evidence = replace(evidence, cold=probes.cold.samples_per_s, warm=probes.warm.samples_per_s)
    return evidence


def _derived(e: Evidence, probes: ProbeResults, setup: Setup | None, rate: float | None) -> dict[str, float]:
    """The metrics that follow from the evidence.

    Args:
        rate: samples/s over the whole window; after a change, the evidence covers only a part of it.
    """
    headroom = e.ceiling / rate if e.ceiling and rate else None
    named: dict[str, float | None] = {
        metrics.CEILING_RATE: e.ceiling,
        metrics.LOADER_RATE: e.loader_alone,
        metrics.CONTENDED_RATE: e.contended,
        metrics.EXPECTED_RATE: None if setup is None else expected_rate(e, setup),
        metrics.HEADROOM_X: headroom,
        metrics.EFFICIENCY_PCT: None if headroom is None else 100 / headroom,
        metrics.EPOCH_GAP_PCT: e.gap_pct,
        metrics.CLOCKS_PCT: e.clocks_pct,
        metrics.LOADER_CORES: e.loader_cores,
        **_capacity(e, setup),
    }
    if e.starved_interval is not None and e.change is None:
        named[metrics.STARVED_LOW_PCT] = max(0.0, e.starved_interval[0])
        named[metrics.STARVED_HIGH_PCT] = min(100.0, e.starved_interval[1])
    if e.change is not None:
        named[metrics.CHANGE_STEP] = e.change.index
        named[metrics.STARVED_BEFORE_PCT] = 100 * e.change.before
        named[metrics.STARVED_SINCE_PCT] = 100 * e.change.after
    if probes.stages is not None:
        named |= {metrics.LOADER_STAGE_MS[name]: 1e3 * seconds for name, seconds in probes.stages.items()}
    if e.cold is not None and e.warm is not None:
        named |= {metrics.COLD_RATE: e.cold, metrics.WARM_RATE: e.warm}
        named[metrics.FETCH_STALL_PCT] = 100 * (1 - e.cold / e.warm)
        if e.ceiling is not None:
            named[metrics.PREP_STALL_PCT] = 100 * (1 - e.warm / e.ceiling)
    return {name: value for name, value in named.items() if value is not None} | line_figures(e.lines)


def _capacity(e: Evidence, setup: Setup | None) -> dict[str, float | None]:
    """The metrics of an emulated accelerator's capacity; empty on a real device."""
    capacity = None if setup is None else capacity_of(e, setup)
    if capacity is None:
        return {}
    return {
        metrics.UTILIZATION_PCT: None if capacity.utilization is None else 100 * capacity.utilization,
        metrics.ACCELERATORS_FED: capacity.accelerators_fed,
        metrics.WORKERS_NEEDED: capacity.workers_needed,
        metrics.CORES_NEEDED: capacity.cores_needed,
    }


def usage(loop: LoopRecord) -> dict[str, float]:
    """CPU time and disk reads of the loop inside its epochs; empty if they were not counted."""
    epochs_s = sum(end - begin for begin, end in loop.epochs_ns) / 1e9
    if not loop.steps or not epochs_s or "cpu_s" not in loop.used:
        return {}
    figures = {metrics.CPU_PCT: 100 * loop.used["cpu_s"] / (epochs_s * loop.cores)}
    if "read_bytes" in loop.used:
        read_mib = loop.used["read_bytes"] / 2**20
        figures |= {metrics.READ_MIB: read_mib, metrics.READ_MIB_PER_S: read_mib / epochs_s}
    return figures


def device_usage(loop: LoopRecord) -> dict[str, float]:
    """NVML's metrics of the GPU, from the first measured step of each whole epoch to that epoch's end."""
    spans, num_samples = [], 0
    measured = {step.step for step in loop.window}
    first = loop.steps[0].epoch if loop.steps else 0
    for index, (began, ended) in enumerate(loop.epochs_ns):
        steps = [step for step in loop.steps if step.epoch == first + index]
        skipped = next((position for position, step in enumerate(steps) if step.step in measured), None)
        if skipped is not None:
            spans.append((began + sum(step.host_ns for step in steps[:skipped]), ended))
            num_samples += sum(step.num_samples for step in steps[skipped:])
    return device_figures(loop.device_samples, spans, num_samples, loop.own_pids) if spans else {}


def _percent(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if interval is None else (100 * interval[0], 100 * interval[1])

"""From raw steps and probes to figures and evidence: what a run and a watched loop have in common."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import psutil

from loaderlab import metrics
from loaderlab.diagnosis.evidence import Evidence, Setup, expected_rate
from loaderlab.meter import resources, summary
from loaderlab.meter.phases import PHASES, Step, StepMeter
from loaderlab.meter.rates import ProbeResults
from loaderlab.meter.sampler import DeviceSample, device_figures
from loaderlab.meter.series import change_point, ratio_interval


def evidence(
    meter: StepMeter, window: Sequence[Step], probed: ProbeResults, parallel: int, cpu_pct: float | None = None
) -> Evidence:
    """What the steps of a measured window, the epochs around them and the probes say.

    Args:
        meter: of the whole loop.
        window: its measured steps.
        probed: what the probes found; `ProbeResults()` where none ran.
        parallel: batches that the loader has in the making at the same time.
        cpu_pct: processor time used, of the cores that may be.
    """
    settled = meter.steps[: meter.num_settled]
    change = change_point([step.starved_ms for step in window], [step.length_ms for step in window], parallel)
    if change is not None:  # what counts is how it is since
        window = window[change.index :]
        change = replace(change, index=window[0].step)
    figures = summary.summarize(window)
    starved, lengths = [step.starved_ms for step in window], [step.length_ms for step in window]
    found = Evidence(
        num_steps=len(window),
        wait_pct=figures.get(metrics.WAIT_PCT, 0.0),
        starved_pct=figures.get(metrics.STARVED_PCT, 0.0),
        starved_interval=_percent(ratio_interval(starved, lengths, parallel)),
        delivery_pct=figures.get(metrics.DELIVERY_PCT, 0.0),
        gap_pct=summary.gap_pct(settled, meter.windows_ns, meter.epoch_ends_ns),
        change=change,
        rate=figures.get(metrics.RATE),
        rate_interval=summary.rate_interval(window, parallel),
        drained_pct=figures.get(metrics.DRAINED_PCT),
        clocks_pct=summary.clocks_pct(settled, meter.windows_ns, meter.epoch_ends_ns),
        phases_ms={
            f"{prefix}{phase}": figures[names[phase]]
            for prefix, names in (("", metrics.PHASE_MS), ("host_", metrics.HOST_PHASE_MS))
            for phase in PHASES
            if names[phase] in figures
        },
        stages=probed.stages,
        cpu_pct=cpu_pct,
    )
    if probed.ceiling is not None:
        found = replace(found, ceiling=probed.ceiling.samples_per_s, ceiling_interval=probed.ceiling.interval)
    if probed.loader_alone is not None:
        found = replace(found, loader_alone=probed.loader_alone.samples_per_s, loader_cores=probed.loader_alone.cores)
    if probed.contended is not None:
        found = replace(found, contended=probed.contended.samples_per_s)
    if probed.cold is not None and probed.warm is not None:
        found = replace(found, cold=probed.cold.samples_per_s, warm=probed.warm.samples_per_s)
    return found


def figures(found: Evidence, probed: ProbeResults, setup: Setup | None, rate: float | None) -> dict[str, float]:
    """The metrics that stand beside those of `summary.summarize`; what was not measured is not among them.

    Args:
        rate: of the whole window, samples/s; the evidence is of what came after a change.
    """
    headroom = found.ceiling / rate if found.ceiling and rate else None
    named: dict[str, float | None] = {
        metrics.CEILING_RATE: found.ceiling,
        metrics.LOADER_RATE: found.loader_alone,
        metrics.CONTENDED_RATE: found.contended,
        metrics.EXPECTED_RATE: None if setup is None else expected_rate(found, setup),
        metrics.HEADROOM_X: headroom,
        metrics.EFFICIENCY_PCT: None if headroom is None else 100 / headroom,
        metrics.EPOCH_GAP_PCT: found.gap_pct,
        metrics.CLOCKS_PCT: found.clocks_pct,
        metrics.LOADER_CORES: found.loader_cores,
    }
    if found.starved_interval is not None and found.change is None:
        named[metrics.STARVED_LOW_PCT] = max(0.0, found.starved_interval[0])
        named[metrics.STARVED_HIGH_PCT] = min(100.0, found.starved_interval[1])
    if found.change is not None:
        named[metrics.CHANGE_STEP] = found.change.index
        named[metrics.STARVED_BEFORE_PCT] = 100 * found.change.before
        named[metrics.STARVED_SINCE_PCT] = 100 * found.change.after
    if probed.stages is not None:
        named |= {metrics.LOADER_STAGE_MS[name]: 1e3 * seconds for name, seconds in probed.stages.items()}
    if probed.cold is not None and probed.warm is not None:
        cold, warm = probed.cold.samples_per_s, probed.warm.samples_per_s
        named |= {metrics.COLD_RATE: cold, metrics.WARM_RATE: warm}
        named[metrics.FETCH_STALL_PCT] = 100 * (1 - cold / warm)
        if found.ceiling is not None:
            named[metrics.PREP_STALL_PCT] = 100 * (1 - warm / found.ceiling)
    return {name: value for name, value in named.items() if value is not None}


def usage(meter: StepMeter, cores: int) -> dict[str, float]:
    """What the loop used inside its epochs, by the counters that the meter was given: see `counters`."""
    if not meter.steps or not meter.epochs_s or "cpu_s" not in meter.used:
        return {}
    found = {metrics.CPU_PCT: 100 * meter.used["cpu_s"] / (meter.epochs_s * cores)}
    if "read_bytes" in meter.used:
        found[metrics.READ_MIB] = meter.used["read_bytes"] / 2**20
        found[metrics.READ_MIB_PER_S] = found[metrics.READ_MIB] / meter.epochs_s
    return found


def device_usage(meter: StepMeter, window: Sequence[Step], samples: Sequence[DeviceSample]) -> dict[str, float]:
    """What NVML saw of the GPU from the first measured step of each whole epoch to that epoch's end."""
    spans, num_samples = [], 0
    first = meter.steps[0].epoch if meter.steps else 0
    for index, (began, ended) in enumerate(meter.windows_ns):
        steps = [step for step in meter.steps if step.epoch == first + index]
        measured = {step.step for step in window if step.epoch == first + index}
        skipped = next((position for position, step in enumerate(steps) if step.step in measured), None)
        if skipped is not None:
            spans.append((began + sum(step.host_ns for step in steps[:skipped]), ended))
            num_samples += sum(step.num_samples for step in steps[skipped:])
    own = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    return device_figures(samples, spans, num_samples, own) if spans else {}


def counters() -> dict[str, float]:
    """What has been used so far, workers included: processor seconds, and bytes from the disk where the kernel tells."""
    read = resources.read_bytes()
    return {"cpu_s": resources.cpu_seconds()} | ({} if read is None else {"read_bytes": float(read)})


def _percent(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if interval is None else (100 * interval[0], 100 * interval[1])

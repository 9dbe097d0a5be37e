"""Computes metrics from raw steps (rate, starved share, percentiles), and selects the measured steps. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from loaderlab import metrics
from loaderlab.meter.series import ratio_interval
from loaderlab.meter.step import PHASES, Step


def measured(steps: Sequence[Step], warmup_steps: int, ramp: int = 1) -> list[Step]:
    """The steady-state steps: after the warm-up, and after the first ``ramp`` steps of each epoch.

    The first wait of an epoch is the gap between epochs. A loader that prepares N batches in parallel then delivers N
    together. Counted without that wait they would make the loader look faster than it is, so ramp is N.
    """
    return [step for step in steps if step.step >= warmup_steps and step.position >= ramp and not step.disturbed]


def summarize(steps: Sequence[Step]) -> dict[str, float]:
    """The metrics of a measured window.

    With device times, a step lasts from the previous step's end to its own end on the device; without them the host's
    clock is used. ``starved`` of a step is min(idle, host wait) + delivery, on a CPU wait + transfer.

    Args:
        steps: of the window; with no steps the result is empty.

    Returns:
        Metric name to value: rate/ in samples per second, time/ in ms, starvation/ in percent of the window.
    """
    if not steps:
        return {}
    host = np.array([step.host for step in steps]) / 1e6
    other = np.array([step.other for step in steps]) / 1e6
    host_step = host.sum(axis=1) + other
    step_ms = np.array([step.length_ms for step in steps])
    starved = np.array([step.starved_ms for step in steps])
    timed = [step.device for step in steps if step.device is not None]
    figures: dict[str, float] = {}
    if timed:
        assert len(timed) == len(steps), "some steps of the window have device times and some do not"
        gap, delivery = np.array([t.gap for t in timed]), np.array([t.delivery for t in timed])
        wait = np.minimum([t.idle for t in timed], host[:, 0])
        phases = [wait, delivery, *(np.array([getattr(t, name) for t in timed]) for name in PHASES[2:])]
        other = gap - wait
        for index, name in enumerate(PHASES):
            figures[metrics.HOST_PHASE_MS[name]] = float(host[:, index].mean())
        figures[metrics.DRAINED_PCT] = 100 * float(np.mean([bool(step.drained) for step in steps]))
    else:
        phases, delivery = list(host.T), host[:, 1]
    if any(step.collective_ms for step in steps):
        figures[metrics.COLLECTIVE_MS] = float(np.mean([step.collective_ms for step in steps]))
    figures |= {metrics.PHASE_MS[name]: float(phase.mean()) for name, phase in zip(PHASES, phases, strict=True)}
    return figures | {
        metrics.OTHER_MS: float(other.mean()),
        metrics.STEP_MS: float(step_ms.mean()),
        metrics.STEP_P50_MS: float(np.percentile(step_ms, 50)),
        metrics.STEP_P95_MS: float(np.percentile(step_ms, 95)),
        metrics.STEP_MAX_MS: float(step_ms.max()),
        metrics.WAIT_P50_MS: float(np.percentile(host[:, 0], 50)),
        metrics.WAIT_P95_MS: float(np.percentile(host[:, 0], 95)),
        metrics.WAIT_MAX_MS: float(host[:, 0].max()),
        metrics.WINDOW_S: float(step_ms.sum()) / 1e3,
        metrics.RATE: 1e3 * sum(step.num_samples for step in steps) / float(step_ms.sum()),
        metrics.WAIT_PCT: 100 * float(host[:, 0].sum() / host_step.sum()),
        metrics.STARVED_PCT: 100 * float(starved.sum() / step_ms.sum()),
        metrics.DELIVERY_PCT: 100 * float(delivery.sum() / step_ms.sum()),
    }


def rate_interval(steps: Sequence[Step], period: int = 1) -> tuple[float, float] | None:
    """95 % confidence interval of the rate, samples/s; see `series.ratio_interval`."""
    per_ms = ratio_interval([step.num_samples for step in steps], [step.length_ms for step in steps], period)
    return None if per_ms is None else (1e3 * per_ms[0], 1e3 * per_ms[1])


def clocks_pct(
    steps: Sequence[Step], epochs_ns: Sequence[tuple[int, int]], epoch_ends_ns: Sequence[int]
) -> float | None:
    """Disagreement of the device's clock and the host's over complete epochs, percent; None with one clock only.

    The host waits for the device at the end of an epoch, so the host's time includes all of the device's steps. It may be
    longer only by the time that the loader needed after the last step to report the end of the epoch.
    """
    whole = [step for step in steps if step.epoch < steps[0].epoch + len(epochs_ns)] if steps else []
    if not whole or any(step.device is None for step in whole):
        return None
    device = sum(step.length_ms for step in whole)
    host = sum(end - begin for begin, end in epochs_ns) / 1e6
    return 100 * max(0.0, device - host, host - sum(epoch_ends_ns) / 1e6 - device) / host


def gap_pct(steps: Sequence[Step], epochs_ns: Sequence[tuple[int, int]], epoch_ends_ns: Sequence[int]) -> float | None:
    """Share of the loop's time lost between epochs, percent, without its first batch and evaluations; None with one
    epoch only. See `between_epochs_ms`."""
    mean = between_epochs_ms(steps, epoch_ends_ns)
    if mean is None:
        return None
    gaps = sum(1 for step in steps if step.position == 0) - 1
    # complete epochs include the device's last work; of an interrupted epoch only the steps count
    loop_ms = sum(end - begin for begin, end in epochs_ns) / 1e6
    loop_ms += sum(step.length_ms for step in steps if step.epoch >= steps[0].epoch + len(epochs_ns))
    return min(100.0, 100 * gaps * mean / max(1e-9, loop_ms - steps[0].host[0] / 1e6))


def between_epochs_ms(steps: Sequence[Step], epoch_ends_ns: Sequence[int]) -> float | None:
    """Mean time lost between two epochs, without evaluation; None with one epoch only.

    It is the time until the loader reports the end of the epoch plus the wait for the next epoch's first batch. A GPU
    may still be working during the former, so with device times it is the starved time of the first batch.
    """
    firsts = [step for step in steps if step.position == 0][1:]
    if not firsts:
        return None
    if all(step.device is not None for step in firsts):
        return float(np.mean([step.starved_ms for step in firsts]))
    return float(np.mean([end + step.host[0] for end, step in zip(epoch_ends_ns, firsts, strict=False)])) / 1e6


def coarse(figures: Mapping[str, float]) -> dict[str, float]:
    """The same metrics with forward, backward and optimizer added up as ``compute``, without the time in collectives."""
    kept = dict(figures)
    for names in (metrics.PHASE_MS, metrics.HOST_PHASE_MS):
        if names["forward"] in kept:
            kept[names["compute"]] = sum(kept.pop(names[phase]) for phase in PHASES[2:])
    if metrics.COLLECTIVE_MS in kept:
        kept[metrics.COMPUTE_MS] = max(0.0, kept[metrics.COMPUTE_MS] - kept[metrics.COLLECTIVE_MS])
    return kept


def mean_loss(losses: Sequence[float]) -> float | None:
    """Mean of the losses, NaN if one of them is NaN; None if there are none."""
    return float(np.mean(losses)) if losses else None

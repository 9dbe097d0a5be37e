"""From raw steps to figures (rate, starved share, percentiles), and which steps are measured. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from loaderlab import metrics
from loaderlab.meter.series import ratio_interval
from loaderlab.meter.step import PHASES, Step


def measured(steps: Sequence[Step], warmup_steps: int, ramp: int = 1) -> list[Step]:
    """The steady state: past the warm-up, and past the first ``ramp`` steps of an epoch.

    The first wait of an epoch is the gap between epochs. With N batches in the making at the same time, N come
    together after it: counted without that wait they would make the loader look faster than it is, so ramp is N.
    """
    return [step for step in steps if step.step >= warmup_steps and step.position >= ramp and not step.disturbed]


def summarize(steps: Sequence[Step]) -> dict[str, float]:
    """The figures of a measured window.

    With device times, a step lasts from the end of the one before it to its own end on the device; without, by the
    host's clock. ``starved`` of a step is min(gap, host wait) + delivery, on a CPU wait + transfer.

    Args:
        steps: of the window; none gives no figure.

    Returns:
        Metric name to value: rate/ in samples a second, time/ in ms, starvation/ in percent of the window.
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
        assert len(timed) == len(steps), "steps of two clocks in one window"
        gap, delivery = np.array([t.gap for t in timed]), np.array([t.delivery for t in timed])
        wait = np.minimum(gap, host[:, 0])
        phases = [wait, delivery, *(np.array([getattr(t, name) for t in timed]) for name in PHASES[2:])]
        other = gap - wait
        for index, name in enumerate(PHASES):
            figures[metrics.HOST_PHASE_MS[name]] = float(host[:, index].mean())
        figures[metrics.DRAINED_PCT] = 100 * float(np.mean([bool(step.drained) for step in steps]))
    else:
        phases, delivery = list(host.T), host[:, 1]
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
    """95 % interval of the rate, samples/s; see `series.ratio_interval`."""
    found = ratio_interval([step.num_samples for step in steps], [step.length_ms for step in steps], period)
    return None if found is None else (1e3 * found[0], 1e3 * found[1])


def clocks_pct(
    steps: Sequence[Step], epochs_ns: Sequence[tuple[int, int]], epoch_ends_ns: Sequence[int]
) -> float | None:
    """By how much the device's clock and the host's contradict each other over the whole epochs, percent; None where
    there is one clock only.

    The host waits for the device at an epoch's end, so its window holds all the device's steps; and it is no longer
    than they are, but for the time after the last step in which the loader said that it was the last.
    """
    whole = [step for step in steps if step.epoch < steps[0].epoch + len(epochs_ns)] if steps else []
    if not whole or any(step.device is None for step in whole):
        return None
    device = sum(step.length_ms for step in whole)
    host = sum(end - begin for begin, end in epochs_ns) / 1e6
    return 100 * max(0.0, device - host, host - sum(epoch_ends_ns) / 1e6 - device) / host


def gap_pct(steps: Sequence[Step], epochs_ns: Sequence[tuple[int, int]], epoch_ends_ns: Sequence[int]) -> float | None:
    """Share of the loop, its first batch and evaluations left out, that went between epochs, percent. None where there
    was one epoch only. See `between_epochs_ms`."""
    mean = between_epochs_ms(steps, epoch_ends_ns)
    if mean is None:
        return None
    gaps = sum(1 for step in steps if step.position == 0) - 1
    # the epochs with the device's last work in them; of one that was broken off its steps
    loop_ms = sum(end - begin for begin, end in epochs_ns) / 1e6
    loop_ms += sum(step.length_ms for step in steps if step.epoch >= steps[0].epoch + len(epochs_ns))
    return min(100.0, 100 * gaps * mean / max(1e-9, loop_ms - steps[0].host[0] / 1e6))


def between_epochs_ms(steps: Sequence[Step], epoch_ends_ns: Sequence[int]) -> float | None:
    """Mean time lost between two epochs, evaluation left out: the loader saying that there is no more, and the wait for the
    first batch of the next. With a clock of its own the device may still work during the former: there, the time that it
    stood still before the first batch. None where there was one epoch only."""
    firsts = [step for step in steps if step.position == 0][1:]
    if not firsts:
        return None
    if all(step.device is not None for step in firsts):
        return float(np.mean([step.starved_ms for step in firsts]))
    return float(np.mean([end + step.host[0] for end, step in zip(epoch_ends_ns, firsts, strict=False)])) / 1e6


def coarse(figures: Mapping[str, float]) -> dict[str, float]:
    """The same figures with forward, backward and optimizer as one, ``compute``."""
    kept = dict(figures)
    for names in (metrics.PHASE_MS, metrics.HOST_PHASE_MS):
        if names["forward"] in kept:
            kept[names["compute"]] = sum(kept.pop(names[phase]) for phase in PHASES[2:])
    return kept


def mean_loss(losses: Sequence[float]) -> float | None:
    """Mean of some losses, NaN if one of them is; None without any."""
    return float(np.mean(losses)) if losses else None

"""Figures made of raw steps: pure, no clock, no device. The names are those that MLflow shows."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import numpy as np

from loaderlab.meter.phases import PHASES, Step


def measured(steps: Sequence[Step], warmup_steps: int) -> list[Step]:
    """The steady state: past the warm-up, and not the first of an epoch, whose wait is the gap between epochs."""
    return [step for step in steps if step.step >= warmup_steps and not step.first_of_epoch]


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
    timed = [step.device for step in steps if step.device is not None]
    figures: dict[str, float] = {}
    if len(timed) == len(steps):
        gap, delivery = np.array([t.gap for t in timed]), np.array([t.delivery for t in timed])
        wait = np.minimum(gap, host[:, 0])
        phases = [wait, delivery, *(np.array([getattr(t, name) for t in timed]) for name in PHASES[2:])]
        rest = gap - wait
        step_ms = rest + sum(phases)
        starved = wait + delivery
        for index, name in enumerate(PHASES):
            figures[f"time/host_{name}_ms"] = float(host[:, index].mean())
    else:
        phases, rest, step_ms = list(host.T), other, host_step
        starved = host[:, 0] + host[:, 1]
    figures |= {f"time/{name}_ms": float(phase.mean()) for name, phase in zip(PHASES, phases, strict=True)}
    figures |= {
        "time/other_ms": float(rest.mean()),
        "time/step_ms": float(step_ms.mean()),
        "time/step_p95_ms": float(np.percentile(step_ms, 95)),
        "time/step_max_ms": float(step_ms.max()),
        "rate/samples_per_s": 1e3 * sum(step.num_samples for step in steps) / float(step_ms.sum()),
        "starvation/wait_pct": 100 * float(host[:, 0].sum() / host_step.sum()),
        "starvation/starved_pct": 100 * float(starved.sum() / step_ms.sum()),
    }
    return figures


def between_epochs_ms(steps: Sequence[Step], epoch_ends_ns: Sequence[int]) -> float | None:
    """Mean time lost between two epochs, evaluation left out: the old one's end and the wait for the first batch of
    the new one. None where there was one epoch only."""
    firsts = [step.host[0] for step in steps if step.first_of_epoch][1:]
    if not firsts:
        return None
    return float(np.mean([end + first for end, first in zip(epoch_ends_ns, firsts, strict=False)])) / 1e6


def to_csv(steps: Sequence[Step], warmup_steps: int) -> str:
    """Every step's raw phases, in ms; device columns are empty where there is no device clock."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    device_columns = ["gap_ms", "delivery_ms", "forward_ms", "backward_ms", "optimizer_ms"]
    writer.writerow(
        [
            "epoch",
            "step",
            "num_samples",
            "measured",
            "loss",
            *(f"host_{name}_ms" for name in PHASES),
            "host_other_ms",
        ]
        + [f"device_{name}" for name in device_columns]
    )
    window = {step.step for step in measured(steps, warmup_steps)}
    for step in steps:
        timed = step.device
        device = [timed.gap, timed.delivery, timed.forward, timed.backward, timed.optimizer] if timed else []
        writer.writerow(
            [step.epoch, step.step, step.num_samples, int(step.step in window), f"{step.loss:.6g}"]
            + [f"{value / 1e6:.4f}" for value in (*step.host, step.other)]
            + ([f"{value:.4f}" for value in device] or [""] * len(device_columns))
        )
    return out.getvalue()

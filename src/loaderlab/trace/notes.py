"""What a reader should know beside the figures: events that were left out, cut, or taken for something else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from loaderlab.trace.collect import TraceEvents
from loaderlab.trace.devices import Device, single_process

MOST_NAMES = 6  # that a message lists


def left_out(found: TraceEvents) -> tuple[str, ...]:
    """On events that are not used."""
    return (f"events with a duration below 0, left out: {found.negative}",) if found.negative else ()


def on_work(found: TraceEvents, devices: Sequence[Device]) -> tuple[str, ...]:
    """On kernels that were cut or counted as copies."""
    notes = []
    if outlasting := sum(device.outlasting for device in devices):
        kernels = "1 kernel ends" if outlasting == 1 else f"{outlasting:,} kernels end"
        why = f"{kernels} after the next kernel of the same stream (pid and tid) has ended, as ROCm's profiler writes"
        if single_process(found):
            notes.append(f"{why}: cut where the next kernel starts. Idle and starved may still be too low")
        else:
            notes.append(f"{why}; not cut, since this file holds several processes: idle and starved may be too low")
    if found.copy_kernels:
        notes.append(
            f"kernels counted as copies, by their names: {_listed(found.copy_kernels)}; ROCm's profiler writes copies so"
        )
    return tuple(notes)


def no_gpu(found: TraceEvents, wait_pct: float | None) -> str:
    """Why idle is not known, what the trace has instead, and what to do."""
    wait = "" if wait_pct is None else f" The loop waited for data {wait_pct:.1f} % of the time."
    if found.others:
        return (
            "the trace has no kernels, copies or memsets in its steps (categories kernel, gpu_memcpy, gpu_memset), so "
            f"nothing says when a device was idle. It has other events: {_listed(found.others)}; those of an accelerator "
            f"other than a GPU are not read.{wait} On a GPU, record it with activities=[ProfilerActivity.CPU, "
            "ProfilerActivity.CUDA]"
        )
    return (
        "the trace has no GPU work in its steps (no kernels, copies or memsets), so nothing says when a device was idle."
        f"{wait} Record it on a GPU, with activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]"
    )


def _listed(counted: Counter[str]) -> str:
    """The most frequent names, with how often each occurs."""
    names = [f"{name} ({count:,})" for name, count in counted.most_common(MOST_NAMES)]
    more = len(counted) - len(names)
    return ", ".join(names) + (f" and {more:,} more" if more else "")

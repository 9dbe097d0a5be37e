"""Notes on what limits the results: events that were left out, cut short, or counted as copies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from loaderlab.trace.collect import TraceEvents
from loaderlab.trace.devices import Device, single_process

MOST_NAMES = 6  # listed in a message


def left_out(trace: TraceEvents) -> tuple[str, ...]:
    """Notes on events that are not used."""
    return (f"events with a duration below 0, left out: {trace.negative}",) if trace.negative else ()


def on_work(trace: TraceEvents, devices: Sequence[Device]) -> tuple[str, ...]:
    """Notes on kernels that were cut short, counted as copies, or may be missing."""
    notes = []
    if outlasting := sum(device.outlasting for device in devices):
        kernels = "1 kernel ends" if outlasting == 1 else f"{outlasting:,} kernels end"
        case = f"{kernels} after the next kernel of the same stream (pid and tid) has ended (ROCm's profiler sometimes writes this)"
        if single_process(trace):
            notes.append(f"{case}: cut where the next kernel starts. Idle and starved may still be too low")
        else:
            notes.append(f"{case}; not cut, since this file has several processes: idle and starved may be too low")
    if trace.copy_kernels:
        notes.append(
            f"kernels counted as copies because of their names: {_listed(trace.copy_kernels)}; ROCm's profiler writes "
            "copies as kernels"
        )
    if devices and trace.graph_launches:
        notes.append(
            f"launches of CUDA graphs: {trace.graph_launches:,}. Some versions of the profiler record only a part of a graph's "
            "kernels: if kernels are missing, idle and starved are too high"
        )
    return tuple(notes)


def no_gpu(trace: TraceEvents, wait_pct: float | None) -> str:
    """Why the idle time is not known, what the trace contains instead, and what to do."""
    wait = "" if wait_pct is None else f" The loop waited for data {wait_pct:.1f} % of the time."
    if trace.others:
        return (
            "the trace has no kernels, copies or memsets in its steps (categories kernel, gpu_memcpy, gpu_memset), so "
            f"the device's idle time is not known. It has other events: {_listed(trace.others)}; events of an accelerator "
            f"other than a GPU are not supported.{wait} On a GPU, record it with activities=[ProfilerActivity.CPU, "
            "ProfilerActivity.CUDA]"
        )
    return (
        "the trace has no GPU work in its steps (no kernels, copies or memsets), so the device's idle time is not known."
        f"{wait} Record it on a GPU, with activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]"
    )


def _listed(counted: Counter[str]) -> str:
    """The most frequent names with their counts."""
    names = [f"{name} ({count:,})" for name, count in counted.most_common(MOST_NAMES)]
    more = len(counted) - len(names)
    return ", ".join(names) + (f" and {more:,} more" if more else "")

"""The bottleneck of a loop: the loader's production, the hand-over, the copy, the storage, or the step itself. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

from loaderlab.diagnosis.evidence import (
    COMPUTE,
    COPY,
    CROWDED_PCT,
    DECODE,
    DEVICE_DECODE,
    EPOCH_START,
    HAND_OVER,
    INTERFERENCE,
    JITTER,
    LAUNCH,
    LOADER,
    PARTLY_FROM_PCT,
    POTENTIAL_X,
    PYTHON,
    QUEUING,
    READS_FROM_MIB_PER_S,
    STORAGE,
    TOLERANCE,
    Evidence,
    Setup,
    expected_rate,
)


def bottleneck_of(e: Evidence, setup: Setup | None, *, fed: bool) -> str:
    """The bottleneck of the loop. ``fed``: the device does not wait for data."""
    if fed:
        if e.headroom is not None and e.headroom > POTENTIAL_X:
            return INTERFERENCE  # otherwise judge() has already returned inconclusive
        return _of_the_step(e)
    on_device = setup is not None and setup.loader.decodes_on_device
    if e.delivery_pct >= e.starved_pct / 2:
        prepares = setup is not None and setup.loader.prepares_on_device
        if prepares and setup is not None and setup.device.emulated:
            return DECODE  # the host's cores do the work of an emulated device's loader
        return DEVICE_DECODE if on_device or prepares else COPY
    if _as_slow_as_cold(e):
        return STORAGE
    if setup is None:
        return LOADER
    if not _late_now_and_then(e, setup) and _lost_to_each_other(e, setup):
        # a loader that the step slows down keeps the cores busy; idle cores mean that it waited for files not yet cached
        idle = e.cpu_pct is not None and e.cpu_pct < CROWDED_PCT
        if not idle or _step_is_slowed(e):
            return INTERFERENCE
        if _read_files(e, setup):
            return STORAGE
    if _is_faster_than_the_step(e, setup):
        return _of_a_fast_loader(e)
    could = min(max(setup.loader.busy_cores, setup.loader.parallel), setup.cores)
    busy = None if e.loader_cores is None else e.loader_cores / max(1, could)
    if on_device and (busy is None or busy < CROWDED_PCT / 100):
        return DEVICE_DECODE  # the host's threads are mostly idle, so the device part of the pipeline is slow
    if busy is not None and busy < 0.5:
        return STORAGE  # the loader waits more than it computes
    if e.stages:
        return DECODE if e.stages["prepare"] >= _assembling(e, e.stages, setup) else PYTHON
    if setup.in_memory:
        return PYTHON
    return DECODE if busy is not None else LOADER


def _read_files(e: Evidence, setup: Setup) -> bool:
    """Whether the run read files from the disk; if the kernel does not report it, whether its samples are files."""
    return setup.image_files if e.read_mib_per_s is None else e.read_mib_per_s >= READS_FROM_MIB_PER_S


def _is_faster_than_the_step(e: Evidence, setup: Setup) -> bool:
    """Whether the loader alone, working ahead, is faster than the ceiling. Its speed is then not the bottleneck."""
    if e.loader_alone is None or e.ceiling is None or not setup.loader.works_ahead:
        return False
    return e.loader_alone >= e.ceiling


def _late_now_and_then(e: Evidence, setup: Setup) -> bool:
    """Whether a loader that is fast enough makes few steps wait, and the others are not slowed down."""
    return _is_faster_than_the_step(e, setup) and _of_a_fast_loader(e) != HAND_OVER and not _step_is_slowed(e)


def _of_a_fast_loader(e: Evidence) -> str:
    """The bottleneck if the loader prepares batches fast enough: the hand-over of each batch if all steps wait equally long;
    single late batches if few steps wait; or filling the queue at the start of each epoch."""
    if e.early_share is not None and e.early_share > 0.5:
        return EPOCH_START
    return HAND_OVER if e.typical_share is None or e.typical_share >= 0.5 else JITTER


def _assembling(e: Evidence, stages: Mapping[str, float], s: Setup) -> float:
    """Worker seconds per sample for collation and for handing batches over to the training process: the time of the loader
    alone, minus the time to prepare the samples."""
    if not s.loader.works_ahead or e.loader_alone is None or s.loader.parallel > s.cores:
        return stages["collate"]  # there is no hand-over, or the workers share cores and it cannot be separated
    return max(stages["collate"], s.loader.parallel / e.loader_alone - stages["prepare"])


def _as_slow_as_cold(e: Evidence) -> bool:
    """Whether a cold file cache slows the loop, and the run was closer to the cold rate than to the warm rate."""
    if e.cold is None or e.warm is None or e.rate is None:
        return False
    return e.cold < (1 - TOLERANCE) * e.warm and e.rate < math.sqrt(e.cold * e.warm)


def _of_the_step(e: Evidence) -> str:
    """The bottleneck of a step that does not wait for data."""
    if e.idle_pct is not None:  # only a trace has it
        idle = e.idle_pct - e.starved_pct
        if max(idle, e.copy_pct) >= PARTLY_FROM_PCT:
            return LAUNCH if idle >= e.copy_pct else COPY
    if e.drained_pct is not None and e.drained_pct > 50 and _host_is_in_front(e):
        return LAUNCH
    return COMPUTE


def _host_is_in_front(e: Evidence) -> bool:
    """Whether queuing a step's work takes the host about as long as the device needs to do it. A device that has always
    finished is not enough: with the gradient scaler of fp16 the host waits for the device in each step."""
    passes = ("forward", "backward")
    if not all(f"host_{name}" in e.phases_ms for name in passes):
        return True
    host, device = (sum(e.phases_ms[f"{of}{name}"] for name in passes) for of in ("host_", ""))
    return host >= QUEUING * device


def _lost_to_each_other(e: Evidence, setup: Setup) -> bool:
    """Whether loader and step, each fast enough alone, lose more time to each other than to the loader's own speed."""
    expected = (
        expected_rate(e, setup) if setup.loader.works_ahead else None
    )  # otherwise they never run at the same time
    if expected is None or e.rate is None or e.ceiling is None:
        return False
    by_loader, by_each_other = 1 / expected - 1 / e.ceiling, 1 / e.rate - 1 / expected
    return by_each_other > max(by_loader, TOLERANCE / e.rate)


def _step_is_slowed(e: Evidence) -> bool:
    """Whether the step loses more time by running slower than at the ceiling than by waiting. Slow files cannot cause that."""
    assert e.rate is not None
    assert e.ceiling is not None
    waited = e.starved_pct / 100 / e.rate
    return 1 / e.rate - waited - 1 / e.ceiling > waited

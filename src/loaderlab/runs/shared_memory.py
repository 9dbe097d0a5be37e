"""Checks before workers start that their batches fit in memory: without space, a worker dies in the middle of training.

Batches in slots (`loaderlab.loaders.slots`) take ordinary memory. Where there are no slots, batches are in ``/dev/shm``, which in
a container has 64 MiB by default.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from loaderlab.config import refuse
from loaderlab.data.spec import DataSpec, Split
from loaderlab.loaders.contract import Loader, LoaderError
from loaderlab.system.doctor import MIB
from loaderlab.system.machine import available_memory
from loaderlab.system.terminal import Terminal

SHM = Path("/dev/shm")


@dataclass(frozen=True)
class _Place:
    """Where batches are: its name, its free bytes, and what to type if they are too few."""

    name: str
    free: int
    override: str


def _place(*, in_dev_shm: bool) -> _Place:
    if in_dev_shm:
        return _Place("/dev/shm", shutil.disk_usage(SHM).free, "docker run --shm-size=8g")
    return _Place("memory", available_memory(), "a smaller batch_size")


def check_shared_memory(
    spec: DataSpec, sample: float, batch_size: int, training: Loader, validation: Loader | None, terminal: Terminal
) -> None:
    """Warns if the batches that the workers prepare ahead do not fit into the free memory, or /dev/shm.

    Args:
        sample: the memory of a sample in a batch, bytes.

    Raises:
        LoaderError: not even one batch of each worker fits, so the first step would fail.
    """
    if _warns(spec.train, training, batch_size, sample, "loader.num_workers=0", terminal) or validation is None:
        return
    assert spec.val is not None
    _warns(spec.val, validation, batch_size, sample, "evaluate=false", terminal)


def _warns(split: Split, loader: Loader, batch_size: int, sample: float, override: str, terminal: Terminal) -> bool:
    """Checks one loader. Returns whether it has warned."""
    makers, shared = loader.capabilities.makers, loader.shared_batches
    if makers is None or shared is None or (shared.in_dev_shm and not SHM.is_dir()):
        return False  # without /dev/shm, the start of the workers explains it
    place = _place(in_dev_shm=shared.in_dev_shm)
    batch_bytes = sample * (batch_size if split.num_samples is None else min(batch_size, split.num_samples))
    least, most = _num_batches(loader, makers.count), _num_batches(loader, shared.most)
    if least * batch_bytes > place.free:
        raise refuse(
            makers.setting,
            makers.count,
            f"workers pass their batches through {place.name}, and {_needed(least, batch_bytes, place.free)}",
            f"{override}, or {place.override}",
            is_example=False,
            error=LoaderError,
        )
    if most * batch_bytes <= place.free:
        return False
    terminal.warn(
        f"{place.name} may become full, and workers would then die: {_needed(most, batch_bytes, place.free)}. "
        f"Type fewer loader.num_workers, loader.prefetch_factor=1, or {place.override}"
    )
    return True


def sample_bytes(spec: DataSpec) -> int:
    """Size of one input in a batch."""
    itemsize: int = getattr(torch, spec.sample_dtype).itemsize
    return math.prod(spec.sample_shape) * itemsize


def _num_batches(loader: Loader, count: int) -> int:
    """A number of batches, limited by those of an epoch."""
    return count if loader.num_steps is None else min(count, loader.num_steps)


def _needed(count: int, batch_bytes: float, free: int) -> str:
    size, total = batch_bytes / MIB, count * batch_bytes / MIB
    return f"{count} batches of {size:,.1f} MiB need {total:,.1f} MiB, but {free / MIB:,.1f} MiB are free"

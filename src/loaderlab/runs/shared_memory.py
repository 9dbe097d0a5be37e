"""Checks before workers start that their batches fit into /dev/shm. Without space, a worker dies in the middle of training."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import torch

from loaderlab.config import refuse
from loaderlab.data.spec import DataSpec, Split
from loaderlab.loaders.contract import Loader, LoaderError
from loaderlab.system.doctor import MIB
from loaderlab.system.terminal import Terminal

SHM = Path("/dev/shm")
# batches besides those prepared ahead: the step's, the next one, and one that a worker has not released. Measured with 2 and 3
# workers and a slow step: runs with room for 2 failed, with room for 3 they did not (2 of 2 for each of 3 settings)
IN_USE = 3


def check_shared_memory(
    spec: DataSpec, batch_size: int, training: Loader, validation: Loader | None, terminal: Terminal
) -> None:
    """Warns if the batches that the workers prepare ahead do not fit into the free space of /dev/shm.

    Raises:
        LoaderError: not even one batch of each worker fits, so the first step would fail.
    """
    if not SHM.is_dir():
        return  # the start of the workers explains it
    free = shutil.disk_usage(SHM).free
    if _warns(spec, spec.train, training, batch_size, free, "loader.num_workers=0", terminal) or validation is None:
        return
    assert spec.val is not None
    _warns(spec, spec.val, validation, batch_size, free, "evaluate=false", terminal)


def _warns(
    spec: DataSpec, split: Split, loader: Loader, batch_size: int, free: int, override: str, terminal: Terminal
) -> bool:
    """Checks one loader. Returns whether it has warned."""
    makers = loader.capabilities.makers
    if makers is None or not loader.capabilities.num_processes:
        return False
    batch_bytes = sample_bytes(spec) * (batch_size if split.num_samples is None else min(batch_size, split.num_samples))
    least, most = _num_batches(loader, makers.count), _num_batches(loader, loader.lookahead + IN_USE)
    if least * batch_bytes > free:
        raise refuse(
            makers.setting,
            makers.count,
            f"workers pass their batches through /dev/shm, and {_needed(least, batch_bytes, free)}",
            f"{override}, or docker run --shm-size=8g",
            is_example=False,
            error=LoaderError,
        )
    if most * batch_bytes <= free:
        return False
    terminal.warn(
        f"/dev/shm may become full, and workers would then die: {_needed(most, batch_bytes, free)}. "
        "Type fewer loader.num_workers, loader.prefetch_factor=1, or docker run --shm-size=8g"
    )
    return True


def sample_bytes(spec: DataSpec) -> int:
    """Size of one input in a batch."""
    itemsize: int = getattr(torch, spec.sample_dtype).itemsize
    return math.prod(spec.sample_shape) * itemsize


def _num_batches(loader: Loader, count: int) -> int:
    """A number of batches, limited by those of an epoch."""
    return count if loader.num_steps is None else min(count, loader.num_steps)


def _needed(count: int, batch_bytes: int, free: int) -> str:
    size, total = batch_bytes / MIB, count * batch_bytes / MIB
    return f"{count} batches of {size:,.1f} MiB need {total:,.1f} MiB, but {free / MIB:,.1f} MiB are free"

"""Measures a list of a million paths in a new process: seconds until it is ready, and memory of a run's processes."""

from __future__ import annotations

import gc
import multiprocessing
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, cast

from torch.utils.data import DataLoader, Dataset

from loaderlab import data
from loaderlab.config import ImageFolderData
from loaderlab.data.spec import DataSpec, ImageFiles
from loaderlab.loaders.contract import EpochPlan
from loaderlab.meter.resources import proportional_memory_mib


def build(root: Path) -> DataSpec:
    """The data of a folder-per-class tree."""
    return data.build(ImageFolderData(root=str(root)), lambda *_: None)


def seconds_to_list(root: Path) -> tuple[float, float]:
    """Seconds to list the tree, and the MiB by which the peak memory of the process grew."""
    before = _peak_mib()
    started = time.perf_counter()
    build(root)
    return time.perf_counter() - started, _peak_mib() - before


def _peak_mib() -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


class PathLengths(Dataset[Any]):
    """A data set that looks up paths and labels and opens no file."""

    def __init__(self, files: ImageFiles) -> None:
        self._files = files

    def __getitems__(self, ids: Any) -> tuple[int, int]:
        return sum(len(self._files.paths[index]) for index in ids.tolist()), int(self._files.labels[ids].sum())


def unchanged(fetched: Any) -> Any:
    """The items as the data set returned them."""
    return fetched


def memory_mib(root: Path, method: str, num_workers: int) -> float:
    """Proportional set size of a process with the list and of its workers, after an epoch."""
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # more workers than there are cores
    spec = build(root)
    files = spec.train.source
    assert isinstance(files, ImageFiles)
    plan = EpochPlan(len(files), 256, shuffle=True, drop_last=False)
    loader = DataLoader(
        PathLengths(files),
        batch_sampler=cast(Any, plan.batches(0)),  # arrays of ids, which `PathLengths.__getitems__` takes whole
        num_workers=num_workers,
        persistent_workers=True,
        multiprocessing_context=method,
        collate_fn=unchanged,
    )
    sums = list(loader)
    assert sum(labels for _, labels in sums) == int(files.labels.sum())
    del sums
    gc.collect()
    total_mib = proportional_memory_mib()
    assert total_mib is not None
    return total_mib


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function that is called in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()

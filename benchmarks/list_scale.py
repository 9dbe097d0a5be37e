"""What the list of a million files costs: seconds until it is ready, and memory over all processes of a run.

python -m benchmarks.list_scale --files 1300000 --workers 8 --times 3

Makes a tree of empty files, 1,000 class folders named as ImageNet's are, in a temporary folder. Times `data.build` of it in
fresh processes: without a kept list, and with it. Then a PyTorch DataLoader's workers look up the paths of a shuffled
epoch, so that each of them touches the whole list, and the proportional set sizes of trainer and workers are read while
all of them live: that of the tree minus that of a tree of 1,000 files, in turns; other programs that map the same libraries
move it by some 10 MiB. Prints medians and ranges.

Without root the kernel's caches cannot be emptied: it still knows the tree that was just made. As root, --cold names a shell
command that empties them before each of the cold listings: "echo 3 > /proc/sys/vm/drop_caches", or, where other programs
shall not feel it, an unmounting and mounting of the file system that TMPDIR is on.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import shutil
import statistics
import subprocess
import tempfile
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

SMALL = 1000  # files of the tree whose memory is subtracted
METHODS = ("fork", "spawn", "forkserver")


def make_tree(root: Path, num_files: int, num_classes: int) -> None:
    for label in range(num_classes):
        name = f"n{label:08d}"
        (root / name).mkdir(parents=True)
        for index in range(label, num_files, num_classes):
            open(f"{root}/{name}/{name}_{index}.JPEG", "x").close()


def build(root: Path) -> DataSpec:
    return data.build(ImageFolderData(root=str(root)), lambda *_: None)


def seconds_to_list(root: Path) -> tuple[float, float]:
    """Seconds, and the MiB by which the process's peak grew meanwhile."""
    before = _peak_mib()
    started = time.perf_counter()
    build(root)
    return time.perf_counter() - started, _peak_mib() - before


def _peak_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


class PathLengths(Dataset[Any]):
    """Looks up paths and labels, opens no file."""

    def __init__(self, files: ImageFiles) -> None:
        self._files = files

    def __getitems__(self, ids: Any) -> tuple[int, int]:
        return sum(len(self._files.paths[index]) for index in ids.tolist()), int(self._files.labels[ids].sum())


def as_it_is(fetched: Any) -> Any:
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
        collate_fn=as_it_is,
    )
    sums = list(loader)
    assert sum(labels for _, labels in sums) == int(files.labels.sum())
    del sums
    gc.collect()
    found = proportional_memory_mib()
    assert found is not None
    return found


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def listing_times(root: Path, cache: Path, cold: str | None, row: Callable[[str, float], None]) -> None:
    state = "kernel caches emptied" if cold else "kernel caches warm"
    shutil.rmtree(cache, ignore_errors=True)
    for kind in ("first", "later"):
        if cold:
            os.sync()
            subprocess.run(cold, shell=True, check=True)
        seconds, peak_mib = in_fresh_process(seconds_to_list, root)
        row(f"{kind} listing, {state}, s", seconds)
        row(f"{kind} listing, {state}: growth of the process's peak, MiB", peak_mib)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1_300_000)
    parser.add_argument("--workers", type=int, default=8, help="of the DataLoader; 0: memory is not measured")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--cold", help="shell command that empties the kernel's caches")
    chosen = parser.parse_args()
    rows: dict[str, list[float]] = {}

    def row(name: str, value: float) -> None:
        rows.setdefault(name, []).append(value)

    with tempfile.TemporaryDirectory(prefix="list_scale_") as folder:
        root, small, cache = (Path(folder) / name for name in ("tree", "small", "cache"))
        os.environ["XDG_CACHE_HOME"] = str(cache)
        started = time.perf_counter()
        make_tree(root, chosen.files, min(1000, chosen.files))
        make_tree(small, SMALL, 100)
        print(f"{chosen.files:,} files made in {time.perf_counter() - started:.0f} s", flush=True)
        time.sleep(3)  # a tree that changed within two seconds is listed again
        for _ in range(chosen.times):
            listing_times(root, cache, None, row)
            if chosen.cold:
                listing_times(root, cache, chosen.cold, row)
        (kept,) = (path for path in cache.rglob("*") if path.is_file())
        print(f"the kept list has {kept.stat().st_size / 2**20:.0f} MiB", flush=True)
        for _ in range(chosen.times):
            for method in METHODS if chosen.workers else ():
                with_list, without = (in_fresh_process(memory_mib, of, method, chosen.workers) for of in (root, small))
                row(f"all processes, {method}: MiB", with_list)
                row(f"all processes, {method}: more than with {SMALL:,} files, MiB", with_list - without)
    print("| | n | median | min to max |\n|---|---:|---:|---:|")
    for name, values in rows.items():
        print(f"| {name} | {len(values)} | {statistics.median(values):.2f} | {min(values):.2f} to {max(values):.2f} |")


if __name__ == "__main__":
    main()

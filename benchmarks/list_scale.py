"""Measures what a list of a million files costs: seconds until it is ready, and the memory of all processes of a run.

    python -m benchmarks.list_scale --files 1300000 --workers 8 --times 3

Makes a tree of empty files in 1,000 class folders with names like ImageNet's, in a temporary folder. Times `data.build` of
it in new processes, without and with a stored list. Then the workers of a PyTorch DataLoader look up the paths of a shuffled
epoch, so that each worker touches the whole list. The proportional set sizes of trainer and workers are read while all of
them run, in turns with a tree of 1,000 files, and the difference is printed. Other programs that map the same libraries
change it by about 10 MiB. Prints medians and ranges.

Without root the kernel's caches cannot be emptied, so they still contain the new tree. As root, pass --cold with a shell
command that empties them before each cold listing: "echo 3 > /proc/sys/vm/drop_caches". To leave other programs undisturbed,
unmount and mount the file system of TMPDIR instead.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SMALL = 1000  # files of the tree whose memory is subtracted
METHODS = ("fork", "spawn", "forkserver")


def make_tree(root: Path, num_files: int, num_classes: int) -> None:
    """Writes the empty files of a folder-per-class tree."""
    for label in range(num_classes):
        name = f"n{label:08d}"
        (root / name).mkdir(parents=True)
        for index in range(label, num_files, num_classes):
            open(f"{root}/{name}/{name}_{index}.JPEG", "x", encoding="utf-8").close()


def listing_times(root: Path, cache: Path, cold: str | None, row: Callable[[str, float], None]) -> None:
    """Passes seconds and memory of a first and a later listing to ``row``; ``cold`` empties the kernel's caches."""
    from benchmarks.harness.path_lists import in_new_process, seconds_to_list

    state = "kernel caches emptied" if cold else "kernel caches warm"
    shutil.rmtree(cache, ignore_errors=True)
    for kind in ("first", "later"):
        if cold:
            os.sync()
            subprocess.run(cold, shell=True, check=True)
        seconds, peak_mib = in_new_process(seconds_to_list, root)
        row(f"{kind} listing, {state}, s", seconds)
        row(f"{kind} listing, {state}: growth of the process's peak, MiB", peak_mib)


def main(arguments: Sequence[str] | None = None) -> None:
    from benchmarks.harness import options

    parser = options.parser(__doc__)
    parser.add_argument("--files", type=options.count, default=1_300_000, help="number of files in the tree")
    parser.add_argument("--workers", type=int, default=8, help="workers of the DataLoader; 0 skips the memory")
    parser.add_argument("--times", type=options.count, default=3, help="repeats of each measurement")
    parser.add_argument("--cold", help="shell command that empties the kernel's caches")
    chosen = parser.parse_args(arguments)
    if chosen.workers < 0:
        parser.error(f"argument --workers: {chosen.workers}: must be 0 or above")

    from benchmarks.harness.path_lists import in_new_process, memory_mib

    rows: dict[str, list[float]] = {}

    def row(name: str, value: float) -> None:
        rows.setdefault(name, []).append(value)

    with tempfile.TemporaryDirectory(prefix="list_scale_") as folder:
        root, small, cache = (Path(folder) / name for name in ("tree", "small", "cache"))
        os.environ["XDG_CACHE_HOME"] = str(cache)
        started = time.perf_counter()
        make_tree(root, chosen.files, min(1000, chosen.files))
        make_tree(small, SMALL, 100)
        print(f"{chosen.files:,} files were made in {time.perf_counter() - started:.0f} s", flush=True)
        time.sleep(3)  # a list of a tree that changed in the last two seconds is not reused
        for _ in range(chosen.times):
            listing_times(root, cache, None, row)
            if chosen.cold:
                listing_times(root, cache, chosen.cold, row)
        (list_file,) = (path for path in cache.rglob("*") if path.is_file())
        print(f"the stored list has {list_file.stat().st_size / 2**20:.0f} MiB", flush=True)
        for _ in range(chosen.times):
            for method in METHODS if chosen.workers else ():
                with_list, without = (
                    in_new_process(memory_mib, tree, method, chosen.workers) for tree in (root, small)
                )
                row(f"all processes, {method}, MiB", with_list)
                row(f"all processes, {method}: more than with {SMALL:,} files, MiB", with_list - without)
    print("| | n | median | min to max |\n|---|---:|---:|---:|")
    for name, values in rows.items():
        print(f"| {name} | {len(values)} | {statistics.median(values):.2f} | {min(values):.2f} to {max(values):.2f} |")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # started by its path, Python imports only from this file's folder
    main()

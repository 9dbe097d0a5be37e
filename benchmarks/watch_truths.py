"""Checks `loaderlab watch` on real training programs whose true share of waiting is known.

    python -m benchmarks.watch_truths --rounds 1 --only plain_loop                     # about 2 minutes
    python -m benchmarks.watch_truths --results truths.jsonl --jobs 2                  # all cases, about 25 minutes
    python -m benchmarks.watch_truths --results truths.jsonl --only "accumulate=4"     # in parts, in any order
    python -m benchmarks.watch_truths --results truths.jsonl --traceml --only "35%"    # also TraceML on the same scripts

The scripts are in ``benchmarks/watched/``: a plain loop, Hugging Face's Trainer, Lightning and Accelerate, with small models that are
made on the spot. Their samples and steps sleep for planted times, so they need no core. Each script measures its true share by its
own clock: without workers as the time in the dataset, otherwise as the time until the batch was there. "formula" is the share that
follows from the planted time of a sample and the measured time of a step; it checks the truth. Cases with one worker also evaluate.

Runs that the file of --results has already are not repeated, and the table is about all runs in it that match --only. The exit code is 1 if
a share that loaderlab reports is off by more than 3 points. The packages are installed into a folder of their own on the first run.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.harness.watched_cases import Case
    from benchmarks.harness.watched_packages import Pythons

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 1 if a share is off by too much."""
    from benchmarks.harness import options
    from benchmarks.harness.watched_cases import CASES
    from benchmarks.harness.watched_packages import DEFAULT

    parser = options.parser(__doc__)
    parser.add_argument("--only", default="", help="only the cases with this text in their name (default: all)")
    parser.add_argument("--rounds", type=options.count, default=3, help="runs of each case")
    parser.add_argument("--jobs", type=options.count, default=1, help="runs at the same time; at most one per core")
    parser.add_argument("--traceml", action="store_true", help="also run TraceML, about 20 s per run")
    parser.add_argument("--results", type=Path, help="file with a line per run, which is continued")
    parser.add_argument("--packages", type=Path, default=DEFAULT, help="folder to install the packages into")
    chosen = parser.parse_args(arguments)
    cases = [case for case in CASES if chosen.only in case.name]
    if not cases:
        parser.error(f"argument --only: no case has {chosen.only!r} in its name: {', '.join(c.name for c in CASES)}")

    from benchmarks.harness.watched_packages import installed
    from benchmarks.harness.watched_runs import read
    from benchmarks.harness.watched_table import is_right, table

    pythons = installed(chosen.packages.resolve(), traceml=chosen.traceml)
    with tempfile.TemporaryDirectory() as folder:
        path = chosen.results or Path(folder) / "results.jsonl"
        _run_missing(cases, chosen.rounds, chosen.jobs, path, pythons, traceml=chosen.traceml)
        names = {case.name for case in cases}
        results = [result for result in read(path) if result.case in names]
    print(table(results))
    return 0 if is_right(results) else 1


def _run_missing(cases: Sequence[Case], rounds: int, jobs: int, path: Path, pythons: Pythons, *, traceml: bool) -> None:
    """Runs what the file does not have yet, and appends it."""
    from benchmarks.harness.watched_runs import append, read, run, tools_of
    from benchmarks.harness.watched_table import line

    known = {result.key for result in read(path)}
    missing = [
        (case, repeat, tool)
        for repeat in range(1, rounds + 1)
        for case in cases
        for tool in tools_of(case, traceml=traceml)
        if (case.name, repeat, tool) not in known
    ]
    began = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        runs = [pool.submit(run, *one, pythons) for one in missing]
        try:
            for number, done in enumerate(as_completed(runs), 1):
                append(path, result := done.result())
                left_s = (len(missing) - number) * (time.monotonic() - began) / number
                print(f"{number} of {len(missing)}: {line(result)} (about {left_s:.0f} s left)", flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # started by its path, Python imports only from this file's folder
    sys.exit(main())

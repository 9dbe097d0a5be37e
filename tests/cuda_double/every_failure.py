"""Fails at every call of a short run, in several processes: ``python -m tests.cuda_double.every_failure``.

It prints how many failures were tried and what was wrong, and ends with 1 if anything was. A part of them is in the tests.
"""

from __future__ import annotations

import gc
import multiprocessing
import sys
import tempfile
import time
from collections import Counter

from loaderlab.cli.schemas import register
from loaderlab.system.machine import available_cores
from tests.conftest import compose
from tests.cuda_double.failing import CUDA_ERROR, OUT_OF_MEMORY, SETTINGS, Trial

NOT_RAISED = "not raised"
MOST_NOT_RAISED = 0.02  # share: some calls depend on when Python frees objects
Tried = tuple[Counter[str], dict[str, list[str]]]


def share(number: int, of: int) -> Tried:
    """Tries one of ``of`` shares of the failures; returns how many of each kind, and what was wrong by kind and call."""
    register()
    tried: Counter[str] = Counter()
    wrong: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory(prefix="loaderlab-") as folder:
        stored = [f"tracking.uri=sqlite:///{folder}/mlflow.db", f"checkpoint.dir={folder}/outputs"]
        trial = Trial(compose([*SETTINGS, *stored]))
        gc.freeze()  # each run collects garbage before its loop, which would take most of the time with all modules
        for kind in (CUDA_ERROR, OUT_OF_MEMORY):
            for at in trial.calls(kind)[number::of]:
                tried[kind] += 1
                if problems := trial.problems(kind, at):
                    wrong[f"{kind} at call {at}, {trial.whole.calls[at - 1]}"] = problems
        tried[NOT_RAISED] = trial.num_not_raised
    return tried, wrong


def main() -> int:
    """Tries all failures and prints the result."""
    began, num_processes = time.monotonic(), available_cores()
    with multiprocessing.get_context("spawn").Pool(num_processes) as pool:
        shares: list[Tried] = pool.starmap(share, [(number, num_processes) for number in range(num_processes)])
    tried: Counter[str] = sum((counted for counted, _ in shares), Counter())
    wrong = {where: problems for _, found in shares for where, problems in found.items()}
    for where, problems in wrong.items():
        print(f"{where}: {'; '.join(problems)}")
    not_raised = tried.pop(NOT_RAISED, 0)  # the sum of counters drops zeros
    counts = ", ".join(f"{count} x {kind}" for kind, count in tried.items())
    print(
        f"{tried.total()} failures tried ({counts}), {not_raised} of them not raised, because the run made fewer calls; "
        f"{len(wrong)} not handled, {time.monotonic() - began:.0f} s"
    )
    return bool(wrong) or not_raised > MOST_NOT_RAISED * tried.total()


if __name__ == "__main__":
    sys.exit(main())

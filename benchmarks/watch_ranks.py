"""Checks the verdict by rank of `loaderlab watch` under torchrun, on trainings with planted times. Needs an idle machine.

    python -m benchmarks.watch_ranks --only loader --ranks 2      # about 30 s
    python -m benchmarks.watch_ranks                              # all cases with 2 and 4 ranks, 3 runs of each: about 7 minutes

The ranks sleep for planted times (``benchmarks/watched/planted_ranks.py``), so they need few cores. Each measures itself by a clock of its
own, from which the true shares follow. The exit code is 1 if a rank or a cause is wrong, or a share is off by more than 3 points.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 1 if a verdict is wrong."""
    from benchmarks.harness import options
    from benchmarks.harness.watched_ranks import EXPECTED, watched

    parser = options.parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=EXPECTED, default=list(EXPECTED), help="cases (default: all)")
    parser.add_argument("--ranks", nargs="+", type=options.count, default=[2, 4], help="numbers of ranks")
    parser.add_argument("--rounds", type=options.count, default=3, help="runs of each case")
    parser.add_argument("--steps", type=options.count, default=120, help="steps of each run")
    chosen = parser.parse_args(arguments)
    outcomes = []
    for _ in range(chosen.rounds):
        for case in chosen.only:
            for ranks in chosen.ranks:
                with tempfile.TemporaryDirectory() as folder:
                    outcomes.append(watched(case, ranks, chosen.steps, Path(folder)))
                print(outcomes[-1].line(), flush=True)
    right = sum(outcome.is_right for outcome in outcomes)
    print(f"{right} of {len(outcomes)} right")
    return int(right < len(outcomes))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # started by its path, Python imports only from this file's folder
    sys.exit(main())

"""Checks the verdict by rank on planted jobs: rank and cause of the straggler, and the job's lost share.

    python -m benchmarks.rank_truths --ranks 2 4 --repeats 3

Each job is a whole command with its own store. The planted shares follow from the settings, and the achieved rate gives them a
second time: 1 - rate / rate of the accelerators.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a start by the path of this file

from benchmarks.harness import options


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 1 if a verdict is wrong."""
    parser = options.parser(__doc__)
    parser.add_argument(
        "--ranks", type=options.count, nargs="+", default=[2, 4], help="numbers of ranks (default: 2 4)"
    )
    parser.add_argument("--repeats", type=options.count, default=3, help="runs of each job (default: 3)")
    parser.add_argument("--case", default="", help="only jobs whose name contains this (default: all)")
    chosen = parser.parse_args(arguments)
    from benchmarks.harness.rank_cases import cases  # imports torch
    from benchmarks.harness.rank_outcomes import measure

    outcomes = []
    for _ in range(chosen.repeats):
        for num_ranks in chosen.ranks:
            for case in cases(num_ranks):
                if chosen.case in case.name:
                    outcomes.append(measure(case, num_ranks))
                    print(outcomes[-1], flush=True)
    right = sum(outcome.is_right for outcome in outcomes)
    largest = max(abs(error) for outcome in outcomes for error in outcome.errors)
    print(f"{right} of {len(outcomes)} right; largest error of a share {largest:.2f} points")
    return 0 if right == len(outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main())

"""The cost of measuring by rank: per step, and at the end of a job with many ranks.

    python -m benchmarks.many_ranks step --ranks 4 --repeats 7
    python -m benchmarks.many_ranks end --ranks 2 4 8 --repeats 3

``step``: ranks that meet in every step of 2 ms. In random blocks of steps, each rank writes its steps to its file and separates its own
work from collectives; in the others, it measures as a single process does. The ratio of the step times is the cost.

``end``: ranks with 10,000 steps each, which rank 0 gathers, judges and writes. Bytes and seconds are fitted linearly and extrapolated to
1,024 ranks.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a start by the path of this file

from benchmarks.harness import options


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = options.parser(__doc__)
    parser.add_argument("part", choices=("step", "end"))
    parser.add_argument("--ranks", type=options.count, nargs="+", default=[4], help="numbers of ranks (default: 4)")
    parser.add_argument("--repeats", type=options.count, default=3, help="measurements of each (default: 3)")
    chosen = parser.parse_args(arguments)
    from benchmarks.harness import rank_costs  # imports torch

    measure = rank_costs.print_step if chosen.part == "step" else rank_costs.print_end
    measure(chosen.ranks, chosen.repeats)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

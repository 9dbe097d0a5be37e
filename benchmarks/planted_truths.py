"""Known causes of starvation, planted in the real loop in real time: does the meter find them, by share and by name?

    python -m benchmarks.planted_truths --repeats 3 --only stall

Sleeps are planted in the loader, the copy, the model and the optimizer, so that the true share is known; the loop, the
native loader with its worker processes, the probes and the verdict are those of a run. Prints the truth, the measured
shares and the verdicts, and ends with 1 where a share is off by more than 3 points or a verdict is named wrongly. Where
the machine itself was too busy to keep the planted times, it says so. No GPU is needed, and none is used.

    python -m benchmarks.planted_truths --follow --repeats 1

runs cases that lack workers and loaders that are faster than the step, follows the advice (workers, a longer queue, larger
batches), and compares the predicted gain with the measured one. Where the verdict predicts none, the workers are doubled.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str] | None = None) -> int:
    from benchmarks.harness import options

    parser = options.parser(__doc__)
    parser.add_argument("--repeats", type=options.count, default=3, help="of each case")
    parser.add_argument(
        "--follow", action="store_true", help="instead: follow the advice, and compare predicted and measured gain"
    )
    parser.add_argument("--only", default="", help="the cases with this text in their name (default: all)")
    chosen = parser.parse_args(arguments)

    from benchmarks.harness.planted_cases import BATCH, CASES, FAST, FOLLOWED, POINTS, run
    from loaderlab import metrics

    known_cases = FOLLOWED if chosen.follow else [*CASES, *FAST]
    cases = [case for case in known_cases if chosen.only in case.name]
    if not cases:
        names = ", ".join(case.name for case in known_cases)
        parser.error(f"argument --only: no case has {chosen.only!r} in its name: {names}")
    if chosen.follow:
        from benchmarks.harness.followed_advice import follow

        return follow(cases, chosen.repeats)
    wrong = 0
    for case in cases:
        results = [run(case) for _ in range(chosen.repeats)]
        shares, truths = [figures[metrics.STARVED_PCT] for figures, _ in results], [math.nan] * len(results)
        if case.truth is not None:
            truths = [case.truth(BATCH / figures[metrics.CEILING_RATE]) for figures, _ in results]
        off = [share - truth for share, truth in zip(shares, truths, strict=True)]
        right = sum(case.named_rightly(verdict) for _, verdict in results)
        good = right == len(results) and not any(abs(points) > POINTS for points in off)
        wrong += not good
        known = ""
        if case.truth is not None:
            known = f"truth {statistics.median(truths):4.1f} %, off by {min(off):+.1f} to {max(off):+.1f}; "
        print(
            f"{case.name:32s} {known}measured {statistics.median(shares):4.1f} ({min(shares):.1f} to {max(shares):.1f}), "
            f"n = {len(shares)}; named rightly {right} of {len(results)}: {'ok' if good else 'WRONG'}",
            flush=True,
        )
        for _, given in results:
            if not case.named_rightly(given):
                print(f"    {given}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # run by its path, a file finds only its own folder
    sys.exit(main())

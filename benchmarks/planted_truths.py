"""Checks that the meter measures and names known causes of starvation, which are planted in the real loop in real time.

    python -m benchmarks.planted_truths --repeats 3 --only stall

Sleeps are planted in the loader, the copy, the model and the optimizer, so that the true share is known. The loop, the
native loader with its worker processes, the probes and the verdict are those of a run. Prints the truth, the measured
shares and the wrong verdicts. The exit code is 1 if a share is off by more than 3 points or a verdict is wrong. Uses no
GPU.

    python -m benchmarks.planted_truths --follow --repeats 1

runs cases with too few workers and loaders that are faster than the step, follows the advice (workers, a longer queue,
larger batches), and compares the predicted gain with the measured one. If the verdict predicts no gain, it doubles the
workers.

    python -m benchmarks.planted_truths --emulated --quick

runs loaders of known speed against emulated accelerators: a grid of sleeping samples, decoded photos, batches in memory, the
capacity estimates, and the rungs of the ladder that concern copies. The truth follows from the planted times, from the achieved
rate, and from the accelerator's own log of its work. It takes about an hour with three repeats, and needs an idle machine.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 1 if a share or a verdict is wrong."""
    from benchmarks.harness import options

    parser = options.parser(__doc__)
    parser.add_argument("--repeats", type=options.count, default=3, help="runs of each case")
    parser.add_argument(
        "--follow",
        action="store_true",
        help="follow the advice instead, and compare the predicted and the measured gain",
    )
    parser.add_argument(
        "--emulated", action="store_true", help="run the cases of emulated accelerators instead, with their own truths"
    )
    parser.add_argument("--quick", action="store_true", help="with --emulated: shorter runs, whose errors are larger")
    parser.add_argument("--only", default="", help="run only the cases with this text in their name (default: all)")
    chosen = parser.parse_args(arguments)
    if chosen.emulated:
        from benchmarks.harness.emulated_truths import check_cases

        return check_cases(parser, chosen.only, chosen.repeats, quick=chosen.quick)

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
        errors = [share - truth for share, truth in zip(shares, truths, strict=True)]
        num_right = sum(case.is_named_by(verdict) for _, verdict in results)
        passed = num_right == len(results) and not any(abs(points) > POINTS for points in errors)
        wrong += not passed
        truth_text = ""
        if case.truth is not None:
            truth_text = f"truth {statistics.median(truths):4.1f} %, off by {min(errors):+.1f} to {max(errors):+.1f}; "
        print(
            f"{case.name:32s} {truth_text}measured {statistics.median(shares):4.1f} ({min(shares):.1f} to {max(shares):.1f}), "
            f"n = {len(shares)}; correct verdicts {num_right} of {len(results)}: {'ok' if passed else 'WRONG'}",
            flush=True,
        )
        for _, verdict in results:
            if not case.is_named_by(verdict):
                print(f"    {verdict}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # started by its path, Python imports only from this file's folder
    sys.exit(main())

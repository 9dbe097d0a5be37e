"""Checks `loaderlab tune` on planted cases whose cheapest feeding settings are known, and compares it with other ways to choose them.

    python -m benchmarks.tuner planted --results tuner               # tunes 12 cases, 3 times each; up to 2 hours
    python -m benchmarks.tuner planted --results tuner --only lock   # in parts, in any order
    python -m benchmarks.tuner exhaustive --results tuner --repeats 5  # every candidate, with plain runs
    python -m benchmarks.tuner rivals --results tuner                # loadtune and three rules of thumb
    python -m benchmarks.tuner prediction --results tuner            # of the answers in the folder
    python -m benchmarks.tuner default --results tuner               # the command without arguments

The cases sleep, use a core or wait for a lock for planted times, and the accelerator is emulated; the module
`benchmarks.harness.tuner_cases` derives what is true of each. All commands run on two cores, and need an otherwise idle machine. The
folder of --results keeps what was run: it is not run again, and the other parts use it. exhaustive, rivals and prediction judge the
answers that planted has written there. rivals installs loadtune into a folder of its own.

The exit code is 1 if: fewer than 11 of 12 choices are the cheapest, a limit is broken or a certificate is false (planted); a choice needs
more than one worker more, or its rate is more than 3 % too low (exhaustive); a rival is better on a case (rivals); the median error is
above 10 % (prediction); a search takes more than 3 minutes (default).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("planted", "exhaustive", "rivals", "default", "prediction")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 1 if a criterion is not met."""
    from benchmarks.harness import options
    from benchmarks.harness.tuner_cases import CASES
    from benchmarks.harness.watched_packages import DEFAULT

    parser = options.parser(__doc__)
    parser.add_argument("part", choices=PARTS, help="what is measured")
    parser.add_argument("--only", default="", help="only the cases with this text in their name (default: all)")
    parser.add_argument("--repeats", type=options.count, default=3, help="of each search or plain run")
    parser.add_argument("--minutes", type=options.number_above_0, default=3.0, help="tune.minutes of a planted case")
    parser.add_argument("--results", type=Path, help="folder of the results, which are continued")
    parser.add_argument("--packages", type=Path, default=DEFAULT, help="folder to install loadtune into")
    chosen = parser.parse_args(arguments)
    cases = [case for case in CASES if chosen.only in case.name]
    if not cases:
        parser.error(f"argument --only: no case has {chosen.only!r} in its name: {', '.join(c.name for c in CASES)}")

    from benchmarks.harness.tuner_parts import PARTS as FUNCTIONS
    from benchmarks.harness.tuner_parts import Bench
    from benchmarks.harness.tuner_runs import restrict_cores

    restrict_cores()
    with tempfile.TemporaryDirectory() as folder:
        results = (chosen.results or Path(folder)).resolve()
        bench = Bench(cases, chosen.repeats, chosen.minutes, results, chosen.packages.resolve())
        return 0 if FUNCTIONS[chosen.part](bench) else 1


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # started by its path, Python imports only from this file's folder
    sys.exit(main())

"""Measures what `loaderlab watch` costs: per step of about 2 ms, and per command. Needs an idle machine.

    python -m benchmarks.watch_overhead --measure steps                 # about 1 minute
    python -m benchmarks.watch_overhead --measure steps --rows          # while the rows are also written to a file, as --record does
    python -m benchmarks.watch_overhead --measure steps --ddp           # of a rank, whose collectives are separated
    python -m benchmarks.watch_overhead --measure command --rounds 5    # about 2 minutes

steps: within one process a coin decides before each step whether it is recorded, so that steps which are compared are milliseconds
apart; the confidence interval is over processes. command: the same script bare, under ``loaderlab watch``, with ``--record``, and under
TraceML, in turns; the confidence interval is over rounds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STEPS, COMMAND = MEASURES = ("steps", "command")


def main(arguments: Sequence[str] | None = None) -> None:
    from benchmarks.harness import options
    from benchmarks.harness.watched_packages import DEFAULT

    parser = options.parser(__doc__)
    parser.add_argument("--measure", nargs="+", choices=MEASURES, default=MEASURES, help="what to measure")
    parser.add_argument("--processes", type=options.count, default=7, help="processes with a coin; at least 2")
    parser.add_argument("--steps", type=options.count, default=3000, help="steps of each process")
    parser.add_argument("--rows", action="store_true", help="write the rows to a file, as --record does")
    parser.add_argument("--ddp", action="store_true", help="train with DistributedDataParallel, on one rank")
    parser.add_argument("--rounds", type=options.count, default=5, help="runs of the command in each arm; at least 2")
    parser.add_argument("--arms", nargs="+", help="of the commands, besides the bare script (default: all)")
    parser.add_argument("--packages", type=Path, default=DEFAULT, help="folder to install the packages into")
    chosen = parser.parse_args(arguments)

    from benchmarks.harness import watched_overhead as overhead

    if STEPS in chosen.measure:
        processes = []
        for number in range(chosen.processes):
            processes.append(overhead.coin_process(chosen.steps, number, rows=chosen.rows, ddp=chosen.ddp))
            print(f"process {number + 1} of {chosen.processes}: {processes[-1]}", flush=True)
        print("\n".join(overhead.step_lines(processes)))
    if COMMAND in chosen.measure:
        from benchmarks.harness.watched_packages import installed

        arms = [arm for arm in overhead.ARMS if arm == overhead.BARE or not chosen.arms or arm in chosen.arms]
        pythons = installed(chosen.packages.resolve(), traceml=overhead.TRACEML in arms)
        seconds = partial(overhead.arm_seconds, pythons=pythons)
        results = overhead.take_rounds(arms, chosen.rounds, seconds, partial(print, flush=True))
        print("\n".join(overhead.command_lines(results)))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # started by its path, Python imports only from this file's folder
    main()

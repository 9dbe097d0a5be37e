"""Changes the code in one place at a time and checks that a test on the double of CUDA fails each time.

    python -m benchmarks.mutations                   # all mutants, in two processes
    python -m benchmarks.mutations --only ring       # those with this text in their name
    python -m benchmarks.mutations --list
    python -m benchmarks.mutations --markdown docs/testing.md   # also writes the table into the page

Each mutant is applied to a copy of the code in a temporary folder, where the tests of `tests/cuda_double` that concern it run;
the checkout is never changed. First, the same tests have to pass on an unchanged copy. The exit code is 1 if a mutant survives,
or if the text that it replaces is not in its file exactly once. Uses no GPU.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a start by the path of this file

from benchmarks.harness import options
from benchmarks.harness.mutants import ALL
from benchmarks.harness.mutants.mutant import Mutant
from benchmarks.harness.mutants.table import with_table
from benchmarks.harness.mutation_trials import Trial, Trials


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 1 if a mutant survives."""
    parser = options.parser(__doc__)
    parser.add_argument("--only", default="", help="run only the mutants with this text in their name (default: all)")
    parser.add_argument("--list", action="store_true", help="print the mutants and end")
    parser.add_argument("--jobs", type=options.count, default=2, help="mutants that are tested at the same time")
    parser.add_argument(
        "--limit", type=options.number_above_0, default=300.0, help="most seconds for the tests of one mutant"
    )
    parser.add_argument("--markdown", type=Path, help="page whose table is written, if all mutants were caught")
    chosen = parser.parse_args(arguments)
    mutants = [mutant for mutant in ALL if chosen.only in mutant.name]
    if not mutants:
        parser.error(f"argument --only: no mutant has {chosen.only!r} in its name. Type: --list")
    if chosen.markdown and chosen.only:
        parser.error("argument --markdown: needs all mutants, without --only")
    if chosen.list:
        print("\n".join(f"{mutant.name:34s} {mutant.change}" for mutant in mutants))
        return 0
    return run(mutants, chosen.jobs, chosen.limit, chosen.markdown)


def run(mutants: Sequence[Mutant], jobs: int, limit_s: float, page: Path | None) -> int:
    """Tries the mutants and prints the outcome of each; the exit code."""
    began = time.monotonic()
    caught_by: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="mutants_") as folder:
        trials = Trials(Path(folder), limit_s)
        unchanged = trials.unchanged(mutants)
        if unchanged.caught_by or unchanged.problem:
            print(unchanged.output)
            print(
                f"error: the tests fail without a mutant: {unchanged.problem or unchanged.caught_by}", file=sys.stderr
            )
            return 1
        print(f"without a mutant the tests pass ({unchanged.seconds:.0f} s); {len(mutants)} mutants follow", flush=True)
        for number, (mutant, trial) in enumerate(trials.of(mutants, jobs), 1):
            if trial.caught:
                caught_by[mutant.name] = trial.caught_by
            print(f"{number:3d}/{len(mutants)} {mutant.name:34s} {outcome(trial)} ({trial.seconds:.0f} s)", flush=True)
    print(f"{len(caught_by)} of {len(mutants)} mutants were caught, in {time.monotonic() - began:.0f} s")
    if len(caught_by) < len(mutants):
        return 1
    if page is not None:
        page.write_text(with_table(page.read_text(encoding="utf-8"), caught_by), encoding="utf-8")
        print(f"the table is in {page}")
    return 0


def outcome(trial: Trial) -> str:
    """One line."""
    if trial.caught:
        return f"caught by {trial.caught_by}"
    return f"NOT COUNTED: {trial.problem}" if trial.problem else "SURVIVED: no test failed"


if __name__ == "__main__":
    sys.exit(main())

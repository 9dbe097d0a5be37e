"""Compares the two ways to start the jobs of a sweep: time from launch to first step, and the spread over repeats (A/A).

    python -m benchmarks.job_start --rounds 12
    python -m benchmarks.job_start --rounds 12 --results start.jsonl    # again, until the file has enough rounds
    python -m benchmarks.job_start --quick

A round runs the same job four times: spawned, from a new template, spawned, from the same template; every other round in the
opposite order. In a sweep, a template never serves two runs of an arm, so the spread over the rounds is that over the repeats of
an arm. The spread within rounds shows what the jobs of one template share. Each round appends a line to the file of --results,
and the summary is about all lines of the file.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STEPS, QUICK_STEPS = 60, 20


def main(arguments: Sequence[str] | None = None) -> None:
    from benchmarks.harness import options

    parser = options.parser(__doc__)
    parser.add_argument("--rounds", type=options.count, default=12, help="rounds of four jobs; about 25 s each")
    parser.add_argument("--steps", type=options.count, default=STEPS, help="training steps of a job")
    parser.add_argument("--results", type=Path, help="file with a line per round, which is continued")
    parser.add_argument("--quick", action="store_true", help="two short rounds, to try the benchmark")
    chosen = parser.parse_args(arguments)
    num_rounds, steps = (2, QUICK_STEPS) if chosen.quick else (chosen.rounds, chosen.steps)

    from benchmarks.harness.job_starts import summary

    with tempfile.TemporaryDirectory() as folder:
        results = chosen.results or Path(folder) / "results.jsonl"
        _take_rounds(num_rounds, steps, Path(folder), results)
        rounds: list[dict[str, Any]] = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    print("\n".join(summary(rounds)))


def _take_rounds(num_rounds: int, steps: int, folder: Path, results: Path) -> None:
    """Appends the rounds to a file, and prints one line for each."""
    from benchmarks.harness.job_starts import JobTimer, taken_round

    timer = JobTimer(steps, folder)
    started = time.monotonic()
    for number in range(1, num_rounds + 1):
        taken = taken_round(timer, template_first=number % 2 == 0)
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(taken) + "\n")
        texts = [f"{method} {', '.join(_seconds(job) for job in jobs)}" for method, jobs in taken.items()]
        left_s = (num_rounds - number) * (time.monotonic() - started) / number
        print(f"round {number} of {num_rounds}: {'; '.join(texts)} (about {left_s:.0f} s left)", flush=True)


def _seconds(job: dict[str, float]) -> str:
    return f"{job['first_step_s']:.2f} s"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # started by its path, Python imports only from this file's folder
    main()

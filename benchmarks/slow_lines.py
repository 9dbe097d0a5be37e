"""Checks that the profile of a worker names the slow line: eight planted lines with 0, 1 and 2 workers.

    python -m benchmarks.slow_lines --repeats 3
    python -m benchmarks.slow_lines --cases sleep loop --workers 2

Each run is a process of its own with an emulated device, which waits for its loader. After some measured steps, the planted line is left out and
put back in turns, which shows its gain. The profiler's cost is measured in a run of its own, whose samples are switched off and on in
turns. Targets: the planted line ranks first, its share is within 10 points of the line's own clock, the gain within 15 % of the prediction;
on average over all runs, a worker is slowed down by at most 5 %, and the reported cost is right within 2 points. For these two it also says in
how many rows of the table they are reached, by the mean of the repeats: single ones differ by chance.

The results are appended to a file, which is read again: a benchmark that was interrupted continues. The machine must do nothing else.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CASES = ("transform", "decoder", "lock", "collate", "copy", "loop", "file", "sleep")
WORKERS = (0, 1, 2)
POINTS, GAIN_PCT, SLOWED_PCT, COST_POINTS = 10.0, 15.0, 5.0, 2.0  # the targets


@dataclass(frozen=True)
class Result:
    """See `benchmarks.harness.slow_program.Outcome` and `benchmarks.harness.slow_cost.Cost`."""

    case: str
    num_workers: int
    repeat: int
    place: str
    spends: str
    is_right: bool
    true_pct: float
    share_pct: float
    expected_x: float
    gain_x: float
    cost_pct: float
    slowed_pct: float

    @property
    def share_is_right(self) -> bool:
        return abs(self.share_pct - self.true_pct) <= POINTS

    @property
    def gain_is_right(self) -> bool:
        return abs(self.gain_x / self.expected_x - 1) <= GAIN_PCT / 100


def measured(case: str, num_workers: int, repeat: int, seconds: float) -> Result:
    """A repeat: two runs in processes of their own."""
    outcome = _run("slow_program", case, num_workers, seconds)
    return Result(case, num_workers, repeat, **outcome, **_run("slow_cost", case, num_workers, 2 * seconds))


def _run(module: str, case: str, num_workers: int, seconds: float) -> dict[str, Any]:
    program = f"benchmarks.harness.{module}"
    command = [sys.executable, "-m", program, case, str(num_workers), "--seconds", f"{seconds:g}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=120)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return outcome


def table(results: Sequence[Result]) -> Iterator[str]:
    """Markdown: a row for each case and number of workers, then the targets."""
    yield "| planted line | workers | ranks first | share, % (own clock) | how | gain (predicted) |"
    yield "|---|---|---|---|---|---|"
    cells: dict[tuple[str, int], list[Result]] = {}
    for result in results:
        cells.setdefault((result.case, result.num_workers), []).append(result)
    for (case, num_workers), own in cells.items():
        shares = ", ".join(f"{result.share_pct:.0f} ({result.true_pct:.0f})" for result in own)
        gains = ", ".join(f"{result.gain_x:.2f}x ({result.expected_x:.2f}x)" for result in own)
        how = ", ".join(dict.fromkeys(result.spends for result in own))
        yield f"| {case} | {num_workers} | {sum(result.is_right for result in own)} of {len(own)} | {shares} | {how} | {gains} |"
    number = len(results)
    slowed, cost = _slowed_and_cost(results)
    by_row = [_slowed_and_cost(own) for own in cells.values()]
    yield ""
    yield f"- the planted line ranks first: {sum(result.is_right for result in results)} of {number}"
    yield f"- its share within {POINTS:g} points: {sum(result.share_is_right for result in results)} of {number}"
    yield f"- the gain within {GAIN_PCT:g} % of the prediction: {sum(result.gain_is_right for result in results)} of {number}"
    outcome, rows = _outcome(slowed <= SLOWED_PCT), sum(row[0] <= SLOWED_PCT for row in by_row)
    yield f"- a worker is slowed down by {slowed:.1f} % (target: at most {SLOWED_PCT:g} %): {outcome}, in {rows} of {len(by_row)} rows"
    right, rows = abs(cost - slowed) <= COST_POINTS, sum(abs(row[1] - row[0]) <= COST_POINTS for row in by_row)
    outcome = _outcome(right)
    yield f"- the reported cost is {cost:.1f} % (target: within {COST_POINTS:g} points of it): {outcome}, in {rows} of {len(by_row)} rows"


def _slowed_and_cost(results: Sequence[Result]) -> tuple[float, float]:
    """The mean slowdown and the mean reported cost, percent."""
    slowed = statistics.fmean(result.slowed_pct for result in results)
    return slowed, statistics.fmean(result.cost_pct for result in results)


def _outcome(reached: bool) -> str:
    return "reached" if reached else "NOT reached"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what is missing, and prints the table of all results."""
    from benchmarks.harness import json_lines, options

    parser = options.parser(__doc__)
    parser.add_argument("--repeats", type=options.count, default=3, help="of each case and number of workers")
    parser.add_argument("--seconds", type=options.number_above_0, default=5.0, help="length of a profile")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES, help="planted lines")
    parser.add_argument("--workers", nargs="+", type=int, choices=WORKERS, default=WORKERS, help="numbers of workers")
    parser.add_argument("--out", type=Path, default=Path("outputs/slow_lines.jsonl"), help="file with the results")
    chosen = parser.parse_args(arguments)
    known = {(result.case, result.num_workers, result.repeat) for result in json_lines.read(chosen.out, Result)}
    for repeat in range(chosen.repeats):
        for case in chosen.cases:
            for num_workers in chosen.workers:
                if (case, num_workers, repeat) not in known:
                    result = measured(case, num_workers, repeat, chosen.seconds)
                    json_lines.append(chosen.out, result)
                    print(result, flush=True)
    print("\n".join(table(json_lines.read(chosen.out, Result))))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # started by its path, Python imports only from this file's folder
    main()

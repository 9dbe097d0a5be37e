"""A program that is recorded: python -m tests.attach.recorded_program STORE ROWS [NAME] < body.py.

It stands for ``loaderlab watch --record NAME body.py``: it writes the rows of a planted loop, then runs the body.
"""

from __future__ import annotations

import sys
from pathlib import Path

from loaderlab.attach.events import UNKNOWN, Kind, LoaderFacts, Program, Row, lines
from loaderlab.attach.sidecar import RecordingProcess, ending_of

MS = 1_000_000
STARVED_PCT = 30.0  # of each step


def planted_rows(num_steps: int) -> str:
    """The lines of a loop whose steps take 10 ms, of which it waits `STARVED_PCT`."""
    rows = [Row(Kind.START, 0, 1, 1, 0, 0)]
    for step in range(num_steps):
        begin = 10 * MS * step
        rows.append(Row(Kind.BATCH, 0, 1, 1, begin, begin + 3 * MS, 8))
        rows.append(Row(Kind.OPTIMIZER, UNKNOWN, UNKNOWN, 1, begin + 9 * MS, begin + 9 * MS))
    rows.append(Row(Kind.END, 0, 1, 1, 10 * MS * num_steps, 10 * MS * num_steps))
    program = Program(device="cpu", device_title="cpu a processor", cores=2, threads=3)
    loader = LoaderFacts(0, "torch", "DataLoader", made_at=("train.py:41",), batch_size=8)
    return lines(program) + lines(loader) + lines(rows)


def run(store: str, rows_file: Path, name: str, body: str) -> int:
    """Runs the body while it is recorded; returns the exit code."""
    process = RecordingProcess.start(name, store, "watched", rows_file, script="train.py", command=["train.py", "a b"])
    rows_file.write_text(planted_rows(60), encoding="utf-8")
    error: BaseException | None = None
    try:
        exec(compile(body, "body.py", "exec"), {"__name__": "__main__", "process": process})
    except BaseException as raised:
        error = raised
    ending = ending_of(error)
    recorded = process.finish(ending)
    print("recorded" if recorded else "not recorded", file=sys.stderr)
    return ending.exit_code


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], Path(sys.argv[2]), (sys.argv[3:] or ["my run"])[0], sys.stdin.read()))

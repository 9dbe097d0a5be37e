"""One run of a planted case: a loop that waits for its loader, watched, with or without the profile. Prints a line of JSON.

python -m benchmarks.harness.slow_program sleep 2 --planted --seconds 5
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.harness.slow_cases import Made

STEP_S = 0.004  # of the emulated device
WARMUP = {0: 40, 1: 40, 2: 80}  # number of workers: steps before the profile, about 2 s
AFTER_S = 2.5  # from its end to the end of the run
START_S = 0.5  # at the start, left out


@dataclass(frozen=True)
class Outcome:
    """The result of a run.

    Attributes:
        batch_ms: time between two batches while no profile ran.
        true_pct: share of the planted line in the time in which worker 0 makes a batch, by the line's own clock, during the profile.
        place: the line that ranks first; empty without a profile.
        is_right: it is the planted one.
        share_pct: its share; nan without a profile.
        expected_x: the predicted gain of the run without it.
        cost_pct: of the profiler, as reported.
        slowed_pct: by how much longer worker 0 took for a batch while it was profiled than before and after.
    """

    batch_ms: float
    true_pct: float
    place: str = ""
    is_right: bool = False
    share_pct: float = float("nan")
    spends: str = ""
    expected_x: float = float("nan")
    cost_pct: float = float("nan")
    slowed_pct: float = float("nan")


def run(case: str, num_workers: int, *, planted: bool, seconds: float) -> Outcome:
    """The outcome.

    Args:
        seconds: of the profile; 0: none.
    """
    import torch
    from torch.utils.data import DataLoader

    from benchmarks.harness.slow_cases import BATCH, Collate, PlantedDataset, planted_line
    from loaderlab import watch

    torch.set_num_threads(1)
    dataset = PlantedDataset(case, planted=planted)
    loader: DataLoader[Any] = DataLoader(
        dataset, BATCH, num_workers=num_workers, collate_fn=Collate(case, planted=planted), shuffle=False
    )
    made: list[Made] = []
    arrivals: list[int] = []
    begun_ns = ended_ns = 0
    with watch("cpu", warmup_steps=WARMUP[num_workers]) as meter:
        if seconds:
            meter.profile_workers(seconds)
        first = time.perf_counter_ns()
        for batch in meter.batches(loader):
            now = time.perf_counter_ns()
            made.append(batch)
            arrivals.append(now)
            time.sleep(STEP_S)
            meter.step(num_samples=len(batch.inputs))
            if len(made) == WARMUP[num_workers]:  # the profile begins with the next request
                begun_ns = time.perf_counter_ns()
                ended_ns = begun_ns + int(1e9 * seconds)
            if begun_ns and now > ended_ns + 1e9 * AFTER_S:
                break
    outside = [
        after - before
        for before, after in zip(arrivals, arrivals[1:], strict=False)
        if before > first + 1e9 * START_S and (after < begun_ns or before > ended_ns)
    ]
    busy = [entry for entry in made if entry.begin_ns > first + 1e9 * START_S and entry.worker == 0]
    inside = [entry for entry in busy if begun_ns < entry.begin_ns < ended_ns] or busy
    true_pct = 100 * sum(entry.planted_ns for entry in inside) / sum(entry.end_ns - entry.begin_ns for entry in inside)
    outcome = Outcome(statistics.fmean(outside) / 1e6, true_pct)
    lines = meter.slow_lines()
    dataset.path.unlink(missing_ok=True)
    if lines is None:
        return outcome
    top, line = lines.top, planted_line(case)
    return replace(
        outcome,
        place=top.line.place,
        is_right=Path(top.line.file).name == "slow_cases.py" and top.line.line == line,
        share_pct=100 * top.share,
        spends=top.spends,
        expected_x=lines.gain(top).run_x,
        cost_pct=lines.cost_pct,
        slowed_pct=slowed_pct(busy, begun_ns, ended_ns),
    )


def slowed_pct(made: Sequence[Made], begun_ns: int, ended_ns: int) -> float:
    """By how much longer a worker took for a batch in an interval than outside of it, percent."""
    inside = [entry.end_ns - entry.begin_ns for entry in made if begun_ns < entry.begin_ns and entry.end_ns < ended_ns]
    outside = [entry.end_ns - entry.begin_ns for entry in made if entry.end_ns < begun_ns or entry.begin_ns > ended_ns]
    return 100 * (statistics.median(inside) / statistics.median(outside) - 1)


def main() -> None:
    """Runs a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case")
    parser.add_argument("num_workers", type=int)
    parser.add_argument("--planted", action="store_true")
    parser.add_argument("--seconds", type=float, default=0.0)
    chosen = parser.parse_args()
    print(json.dumps(asdict(run(chosen.case, chosen.num_workers, planted=chosen.planted, seconds=chosen.seconds))))


if __name__ == "__main__":
    main()

"""A run of a planted case: a loop that waits for its loader and is profiled. Prints a line of JSON.

    python -m benchmarks.harness.slow_program sleep 2 --seconds 5

After the profile come steps that are measured, which the prediction needs. Then the planted line is left out and put back in turns, which shows
its gain.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from benchmarks.harness.slow_cases import Made
    from loaderlab.lines.shares import SlowLines

STEP_S = 0.004  # of the emulated device
WARMUP = {0: 40, 1: 40, 2: 80}  # number of workers: steps before the profile, about 2 s
MEASURED_S = 1.6  # after the profile
TURNS, TURN_S = 8, 0.8  # without and with the line, after that


@dataclass(frozen=True)
class Outcome:
    """The result of a run.

    Attributes:
        place: the line that ranks first.
        is_right: it is the planted one.
        true_pct: share of the planted line in the time in which worker 0 makes a batch, by the line's own clock, during the profile.
        share_pct: its share.
        expected_x: the predicted gain of the run without it.
        gain_x: the gain, from the turns after the profile.
    """

    place: str
    spends: str
    is_right: bool
    true_pct: float
    share_pct: float
    expected_x: float
    gain_x: float


@dataclass(frozen=True)
class Arrival:
    """A batch and when the loop received it."""

    made: Made
    time_ns: int


def run(case: str, num_workers: int, seconds: float) -> Outcome:
    """The outcome.

    Args:
        seconds: of the profile.
    """
    import torch
    from torch.utils.data import DataLoader

    from benchmarks.harness.slow_cases import BATCH, Collate, PlantedDataset, planted_line
    from loaderlab import watch

    torch.set_num_threads(1)
    switch = torch.ones(1).share_memory_()
    dataset = PlantedDataset(case, switch)
    loader: DataLoader[Any] = DataLoader(dataset, BATCH, num_workers=num_workers, collate_fn=Collate(case, switch))
    arrivals: list[Arrival] = []
    begun_ns = ended_ns = turns_ns = 0
    lines: SlowLines | None = None
    with watch("cpu", warmup_steps=WARMUP[num_workers]) as meter:
        meter.profile_workers(seconds)
        for batch in meter.batches(loader):
            now = time.perf_counter_ns()
            arrivals.append(Arrival(batch, now))
            time.sleep(STEP_S)
            meter.step(num_samples=len(batch.inputs))
            if len(arrivals) == WARMUP[num_workers]:  # the profile begins with the next request
                begun_ns = time.perf_counter_ns()
                ended_ns = begun_ns + int(1e9 * seconds)
                turns_ns = ended_ns + int(1e9 * MEASURED_S)
            turn = int((now - turns_ns) / 1e9 // TURN_S) if begun_ns else -1
            if turn >= 0 and lines is None:
                lines = meter.slow_lines()
            switch[0] = turn < 0 or turn % 2
            if turn >= TURNS:
                break
    dataset.path.unlink(missing_ok=True)
    assert lines is not None, str(meter.verdict())
    top, line = lines.top, planted_line(case)
    own = [entry.made for entry in arrivals if entry.made.worker == 0]
    inside = [entry for entry in own if begun_ns < entry.begin_ns and entry.end_ns < ended_ns]
    return Outcome(
        place=top.line.place,
        spends=top.spends,
        is_right=Path(top.line.file).name == "slow_cases.py" and top.line.line == line,
        true_pct=100
        * sum(entry.planted_ns for entry in inside)
        / sum(entry.end_ns - entry.begin_ns for entry in inside),
        share_pct=100 * top.share,
        expected_x=lines.gain(top).run_x,
        gain_x=gain_x([entry for entry in arrivals if entry.time_ns > turns_ns], 2 * num_workers + 1),
    )


def gain_x(arrivals: Sequence[Arrival], ahead: int) -> float:
    """The mean time between two batches with the planted line, through that without it.

    Args:
        ahead: batches after a change that are left out, because they were made ahead.
    """
    times: dict[bool, list[int]] = {True: [], False: []}
    same = 0
    for before, after in itertools.pairwise(arrivals):
        plants = after.made.planted_ns > 0
        same = same + 1 if plants == (before.made.planted_ns > 0) else 0
        if same > ahead:
            times[plants].append(after.time_ns - before.time_ns)
    return statistics.fmean(times[True]) / statistics.fmean(times[False])


def command(run: Callable[[str, int, float], DataclassInstance], description: str | None, seconds: float) -> None:
    """Runs the case of the command line, and prints its result as a line of JSON.

    Args:
        seconds: the default of ``--seconds``.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("case")
    parser.add_argument("num_workers", type=int)
    parser.add_argument("--seconds", type=float, default=seconds)
    chosen = parser.parse_args()
    print(json.dumps(asdict(run(chosen.case, chosen.num_workers, chosen.seconds))))


if __name__ == "__main__":
    command(run, __doc__, 5.0)

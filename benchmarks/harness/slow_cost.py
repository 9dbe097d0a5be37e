"""What the profiler costs a worker: its samples are switched off and on in turns during one profile. Prints a line of JSON.

python -m benchmarks.harness.slow_cost loop 2 --seconds 8
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.harness.slow_program import STEP_S, WARMUP, command

if TYPE_CHECKING:
    from benchmarks.harness.slow_cases import Made

TURN_S = 0.5


@dataclass(frozen=True)
class Cost:
    """The result.

    Attributes:
        slowed_pct: by how much longer worker 0 took for a batch while it was sampled.
        cost_pct: the share of the time that the profiler reports as its own, while it sampled.
    """

    slowed_pct: float
    cost_pct: float


@dataclass(frozen=True)
class Turn:
    """A time in which the worker was sampled, or was not."""

    begin_ns: int
    end_ns: int
    samples: bool

    def has(self, made: Made) -> bool:
        return self.begin_ns < made.begin_ns and made.end_ns < self.end_ns


class Switch:
    """Stops the process that asks for the samples, and lets it continue."""

    def __init__(self) -> None:
        (ticker,) = [child for child in psutil.Process().children() if "ticker.py" in " ".join(child.cmdline())]
        self._pid = ticker.pid
        self._samples, self._since_ns = True, time.perf_counter_ns()
        self.turns: list[Turn] = []

    def change(self) -> None:
        """Begins the next turn, if this one is over."""
        now = time.perf_counter_ns()
        if now - self._since_ns > 1e9 * TURN_S:
            self.turns.append(Turn(self._since_ns, now, self._samples))
            self._samples, self._since_ns = not self._samples, now
            os.kill(self._pid, signal.SIGCONT if self._samples else signal.SIGSTOP)


def run(case: str, num_workers: int, seconds: float) -> Cost:
    """The cost.

    Args:
        seconds: of the profile, half of which samples.
    """
    import torch
    from torch.utils.data import DataLoader

    from benchmarks.harness.slow_cases import BATCH, Collate, PlantedDataset
    from loaderlab.lines.control import WorkerProfile

    torch.set_num_threads(1)
    planted = torch.ones(1).share_memory_()
    dataset = PlantedDataset(case, planted)
    loader: DataLoader[Any] = DataLoader(dataset, BATCH, num_workers=num_workers, collate_fn=Collate(case, planted))
    made: list[Made] = []
    with closing(WorkerProfile(seconds)) as profile:
        with profile.prepared(loader):
            batches = iter(loader)
        switch = None
        while not profile.begun or profile.running:
            made.append(next(batches))
            time.sleep(STEP_S)
            if len(made) == WARMUP[num_workers]:
                profile.begin(num_workers)
                switch = Switch()
            if switch is not None:
                switch.change()
        assert switch is not None
        recording = profile.recording()
    dataset.path.unlink(missing_ok=True)
    own = [entry for entry in made if entry.worker == 0]
    lengths = {
        samples: [
            entry.end_ns - entry.begin_ns
            for turn in switch.turns
            if turn.samples == samples
            for entry in own
            if turn.has(entry)
        ]
        for samples in (True, False)
    }
    sampled_ns = sum(turn.end_ns - turn.begin_ns for turn in switch.turns if turn.samples)
    slowed = statistics.median(lengths[True]) / statistics.median(lengths[False])
    return Cost(100 * (slowed - 1), recording.cost_pct(sampled_ns))


if __name__ == "__main__":
    command(run, __doc__, 8.0)

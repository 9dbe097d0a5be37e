"""Runs of ``loaderlab watch`` under torchrun on planted times, and how far its verdict is from the truth."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.watched_packages import ROOT, environment

SCRIPT = ROOT / "benchmarks" / "watched" / "planted_ranks.py"
WARMUP = 5  # steps
POINTS = 3.0  # by which a share may differ
EXPECTED = {  # case: rank and cause of the straggler
    "fed": (None, None),
    "loader": (1, "loader"),
    "shard": (1, "loader"),
    "device": (1, "device"),
    "moving": (None, "moving"),
    "unequal": (None, None),
}


@dataclass(frozen=True)
class Truth:
    """By the scripts' own clocks, percent: the job's lost time, and the excess of the slowest rank over the fastest."""

    lost_pct: float
    excess_pct: float


@dataclass(frozen=True)
class Outcome:
    """What loaderlab says about a run, and the truth."""

    case: str
    ranks: int
    rank: int | None
    cause: str | None
    lost_pct: float
    excess_pct: float
    truth: Truth

    @property
    def is_right(self) -> bool:
        """Whether rank, cause and shares are. The excess of a slow rank that changes is defined step by step, over the median."""
        excess = self.cause == "moving" or abs(self.excess_pct - self.truth.excess_pct) <= POINTS
        lost = abs(self.lost_pct - self.truth.lost_pct) <= POINTS
        return (self.rank, self.cause) == EXPECTED[self.case] and lost and excess

    def line(self) -> str:
        shares = f"lost {self.lost_pct:5.1f} % (true {self.truth.lost_pct:5.1f}), excess {self.excess_pct:5.1f} % (true {self.truth.excess_pct:5.1f})"
        straggler = f"{self.cause or 'no straggler'}{'' if self.rank is None else f', rank {self.rank}'}"
        return f"{self.case:8} {self.ranks} ranks: {straggler:20} {shares}  {'right' if self.is_right else 'WRONG'}"


def truth_of(ranks: list[list[tuple[int, int, int]]]) -> Truth:
    """The shares from each rank's waits, times in the collective and lengths of all steps."""
    values = np.array(ranks, dtype=float)[:, WARMUP:]
    starved, collective, length = values[..., 0], values[..., 1], values[..., 2]
    own = length - collective
    slowest = own.argmax(axis=0)
    total = length[slowest, np.arange(length.shape[1])]
    lost = own.max(axis=0) - (own - starved).max(axis=0)
    means = own.mean(axis=1)
    return Truth(100 * lost.sum() / total.sum(), 100 * (means.max() - means.min()) / total.mean())


def watched(case: str, ranks: int, steps: int, folder: Path) -> Outcome:
    """One run, with its files in an empty folder."""
    result: dict[str, Any] = run(["--case", case, "--steps", str(steps), "--truth", str(folder)], ranks, folder)
    truths = [json.loads((folder / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in range(ranks)]
    straggler = result["straggler"] or {"rank": None, "cause": None}
    lost, excess = result["job_starved_pct"], result["excess_pct"]
    return Outcome(case, ranks, straggler["rank"], straggler["cause"], lost, excess, truth_of(truths))


def run(arguments: list[str], ranks: int, folder: Path) -> dict[str, Any]:
    """The result of the script as JSON."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    watch = ["-m", "loaderlab", "watch", f"--json={folder / 'result.json'}", str(SCRIPT), *arguments]
    subprocess.run(
        [*torchrun, *watch], cwd=folder, env=environment() | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True
    )
    content: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return content

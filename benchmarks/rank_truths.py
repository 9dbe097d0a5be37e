"""Checks the verdict by rank on planted jobs: rank and cause of the straggler, and the job's lost share.

    python -m benchmarks.rank_truths --ranks 2 4 --repeats 3

Each job is a whole command with its own store. The planted shares follow from the settings, and the achieved rate gives them a
second time: 1 - rate / rate of the accelerators.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.rank_cases import BATCH, RankCase, cases
from loaderlab import metrics
from loaderlab.config import TrackingConfig
from loaderlab.tracking import open_store
from loaderlab.tracking.records import RunRecord

LIMIT = 3.0  # percentage points


@dataclass(frozen=True)
class Outcome:
    """A planted job and what was measured."""

    case: RankCase
    num_ranks: int
    run: RunRecord

    @property
    def is_right(self) -> bool:
        """Whether rank and cause are those that were planted, and the share is within the limit."""
        tags = self.run.tags
        rank = None if "straggler.rank" not in tags else int(tags["straggler.rank"])
        named = (tags.get("straggler.cause", ""), rank) == (self.case.cause, self.case.rank)
        return named and self.case.word in tags["verdict.because"] and max(map(abs, self.errors)) <= LIMIT

    @property
    def errors(self) -> list[float]:
        """The measured share less the planted one, and less that of the achieved rate, points.

        Ranks with streams agree in each step whether all have a batch, while their devices wait. This is no waiting for data, but the
        achieved rate includes it, so it is no truth for them.
        """
        share = self.run.figures[metrics.STARVED_PCT]
        rate, num_samples = self.run.figures[metrics.RATE], BATCH * self.num_ranks
        by_rate = 100 - self.case.step_ms * rate / num_samples / 10
        errors = [share - self.case.lost_pct]
        return errors if self.case.kind == "shard" else [*errors, share - by_rate]

    def __str__(self) -> str:
        tags = self.run.tags
        named = f"{tags.get('straggler.cause', '-')} {tags.get('straggler.rank', '-')} {tags['straggler.excess_pct']} %"
        share = self.run.figures[metrics.STARVED_PCT]
        errors = ", ".join(f"{error:+.2f}" for error in self.errors)
        text = f"{self.case.name:<42}{self.num_ranks} ranks  lost {share:5.1f} % (off by {errors})  {named:<22}"
        return f"{text}{'right' if self.is_right else 'WRONG: ' + tags['verdict.because']}"


def measure(case: RankCase, num_ranks: int) -> Outcome:
    """Runs a planted job."""
    with tempfile.TemporaryDirectory(prefix="rank_truths_") as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        command = [sys.executable, "-m", "experiments.train", *case.overrides(num_ranks), f"tracking.uri={uri}"]
        done = subprocess.run(command, capture_output=True, encoding="utf-8")
        if done.returncode:
            raise SystemExit(f"{case.name}: {done.stdout}{done.stderr}")
        (run,) = open_store(TrackingConfig(uri=uri), Path(folder)).runs()
    return Outcome(case, num_ranks, run)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 1 if a verdict is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    chosen = parser.parse_args(arguments)
    outcomes = []
    for _ in range(chosen.repeats):
        for num_ranks in chosen.ranks:
            for case in cases(num_ranks):
                if chosen.case in case.name:
                    outcomes.append(measure(case, num_ranks))
                    print(outcomes[-1], flush=True)
    right = sum(outcome.is_right for outcome in outcomes)
    largest = max(abs(error) for outcome in outcomes for error in outcome.errors)
    print(f"{right} of {len(outcomes)} right; largest error of a share {largest:.2f} points")
    return 0 if right == len(outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main())

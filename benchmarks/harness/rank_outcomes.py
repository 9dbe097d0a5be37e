"""A planted job of several ranks and what was measured: see `benchmarks.rank_truths`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.rank_cases import BATCH, RankCase
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

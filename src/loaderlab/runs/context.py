"""What every stage of one run needs: its configuration, its name, the terminal, the record, the folder of its artifacts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loaderlab.config import TrainConfig
from loaderlab.runs.job import Job
from loaderlab.system.terminal import Terminal
from loaderlab.tracking.tracked_run import TrackedRun
from loaderlab.training import checkpoint


@dataclass(frozen=True)
class RunContext:
    """The input that every stage of a run shares.

    Attributes:
        tracked: the run in MLflow.
        folder: a temporary folder; its files become the run's artifacts.
    """

    config: TrainConfig
    job: Job
    terminal: Terminal
    tracked: TrackedRun
    folder: Path

    @property
    def checkpoint_path(self) -> Path:
        """The path of this run's own checkpoint."""
        return Path(self.config.checkpoint.dir) / self.tracked.run_id / checkpoint.NAME

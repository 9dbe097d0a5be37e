"""What every stage of one run needs: its configuration, its name, the terminal, the record, the folder of its artifacts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loaderlab.config import TrainConfig
from loaderlab.runs.job import Job
from loaderlab.system.ranks import SINGLE, Ranks
from loaderlab.system.terminal import Terminal
from loaderlab.tracking.untracked import Untracked
from loaderlab.training import checkpoint
from loaderlab.training.rank_group import RankGroup

if TYPE_CHECKING:
    from loaderlab.tracking.tracked_run import TrackedRun  # imports MLflow, which only rank 0 needs


@dataclass(frozen=True)
class RunContext:
    """The input that every stage of a run shares.

    Attributes:
        tracked: the run in MLflow.
        folder: a temporary folder; its files become the run's artifacts.
        group: the ranks of the job; None with one process.
        rank_folder: of this rank's files for its agent; None with one process.
    """

    config: TrainConfig
    job: Job
    terminal: Terminal
    tracked: TrackedRun | Untracked
    folder: Path
    group: RankGroup | None = None
    rank_folder: Path | None = None

    @property
    def ranks(self) -> Ranks:
        """The place of this process among the ranks of its job."""
        return SINGLE if self.group is None else self.group.ranks

    @property
    def checkpoint_path(self) -> Path:
        """The path of this run's own checkpoint."""
        return Path(self.config.checkpoint.dir) / self.tracked.run_id / checkpoint.NAME

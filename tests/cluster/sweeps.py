"""Sweeps on a cluster as a user starts them, and what they recorded."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from loaderlab.config import PROJECT
from loaderlab.runs import sweep_jobs

TRAIN = [sys.executable, "-m", "experiments.train", "-m"]
WAIT_S = 170.0


def settings(uri: str, image_tree: Path, folder: Path) -> list[str]:
    """The overrides that all jobs have."""
    return [
        f"tracking.uri={uri}",
        "tracking.experiment=cluster",
        "device=cpu",
        "data=imagefolder",
        f"data.root={image_tree}",
        "data.transform.image_size=16",
        "data.transform.resize=16",
        "measure=bare",
        "evaluate=false",
        "loader.num_workers=0",
        "sweep.on=slurm",
        f"sweep.slurm.folder={folder}",
        "sweep.slurm.minutes=5",
    ]


def started(*arguments: str, out: Path) -> subprocess.Popen[str]:
    """The launching process, in its own process group."""
    with out.open("w") as file:
        return subprocess.Popen(
            [*TRAIN, *arguments],
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def await_that(condition: Callable[[], Any], out: Path) -> None:
    """Waits until the condition is true."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, out.read_text()
        time.sleep(0.2)


def ended(launcher: subprocess.Popen[str], out: Path) -> int:
    """The exit code of a launching process, after it has ended."""
    await_that(lambda: launcher.poll() is not None, out)
    return launcher.returncode


class Recorded:
    """The newest sweep in a store.

    Attributes:
        jobs: its jobs by name, as they are saved with the parent run.
    """

    def __init__(self, uri: str) -> None:
        self.client = MlflowClient(uri)
        experiment = self.client.get_experiment_by_name("cluster")
        assert experiment is not None
        runs = self.client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
        self.parent: Run = next(run for run in runs if run.data.tags.get("sweep") == "parent")
        self.children: list[Run] = [run for run in runs if run is not self.parent]
        path = self.client.download_artifacts(self.parent.info.run_id, sweep_jobs.FILE)
        self.jobs = {job["name"]: sweep_jobs.SweepJob(**job) for job in json.loads(Path(path).read_text())["jobs"]}

    @property
    def statuses(self) -> list[tuple[str, str]]:
        """(name, status) of each run of a job, sorted."""
        return sorted((run.info.run_name or "", run.info.status) for run in self.children)

    def run(self, name: str) -> Run:
        """The only run of this job."""
        (run,) = [run for run in self.children if run.info.run_name == name]
        return run

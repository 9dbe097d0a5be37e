"""Commands as a user starts them on a cluster, and what they recorded."""

from __future__ import annotations

import json
import os
import signal
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

TRAIN = [sys.executable, "-m", "experiments.train"]
WAIT_S = 180.0
LONG = "steps=100000000"  # a training that a test has to end


def settings(uri: str, image_tree: Path) -> list[str]:
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
    ]


def on_slurm(folder: Path) -> list[str]:
    """The overrides of a sweep on the cluster."""
    return ["sweep.on=slurm", f"sweep.slurm.folder={folder}", "sweep.slurm.minutes=5"]


class Command:
    """Starts commands, one at a time, and ends the last one if a test leaves it running.

    Args:
        out: everything that the last command prints.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._process: subprocess.Popen[str] | None = None

    @property
    def printed(self) -> str:
        return self._out.read_text()

    def start(self, *arguments: str) -> None:
        """Starts ``experiments.train`` in its own process group."""
        with self._out.open("w") as file:
            self._process = subprocess.Popen(
                [*TRAIN, *arguments],
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to its process group, as a terminal does."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def exit_code(self) -> int:
        """The exit code, after it has ended."""
        assert self._process is not None
        process = self._process
        self.await_that(lambda: process.poll() is not None)
        return int(process.returncode)

    def await_that(self, condition: Callable[[], Any]) -> None:
        """Waits until the condition is true."""
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, self.printed
            time.sleep(0.2)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.send(signal.SIGKILL)
            self._process.wait()


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

"""In place of the fresh processes of a sweep's jobs; needs no torch."""

from __future__ import annotations

from typing import Any

from loaderlab import tracking
from loaderlab.config import PROJECT, TrainConfig, flatten
from loaderlab.jobs import NOT_APPLICABLE, Job, RunResult


class Launched:
    """In place of fresh processes: writes a record of each job and ends as it is told."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.ends: dict[str, Any] = {}
        self.machines: list[Any] = []

    def __call__(self, config: TrainConfig, job: Job) -> RunResult:
        self.names.append(job.name)
        self.machines.append(job.machine)
        end = next((end for name, end in self.ends.items() if name in job.name), "FINISHED")
        if end == NOT_APPLICABLE:
            return RunResult("", NOT_APPLICABLE, error="precision=tf32: needs a GPU")
        if end == "LOST":  # before it had a run
            return RunResult("", "KILLED", error="took longer than sweep.job_minutes=1")
        store = tracking.Store(config.tracking, PROJECT)
        run = store.start(job.name, job.parent_id, {"arm": job.arm, "config.hash": job.hash})
        run.params(flatten(config))
        if end is KeyboardInterrupt:
            run.end("KILLED")
            raise KeyboardInterrupt
        if end == "FINISHED":
            run.metric("rate/samples_per_s", 100.0 + len(self.names), 1)
            run.metric("time/train_s", 3.0, 1)
        run.end(end)
        return RunResult(run.run_id, end, error="" if end == "FINISHED" else "it broke")

"""A fake for the fresh processes of a sweep's jobs; needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loaderlab.compare.utilization import utilization_metric
from loaderlab.config import EMULATED, PROJECT, TrainConfig
from loaderlab.parity.status import PARITY, SAME_WORK
from loaderlab.runs.compared_loaders import ComparedLoader
from loaderlab.runs.job import Job, RunResult
from loaderlab.runs.job_start import JobStarter
from loaderlab.tracking import open_store
from loaderlab.tracking.records import NOT_APPLICABLE


class Launched:
    """Replaces the launching of jobs: writes a record of each job, and ends it as ``ends`` says.

    ``utilization``: percent, by a part of the job's name.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.ends: dict[str, Any] = {}
        self.machines: list[Any] = []
        self.methods: list[str] = []
        self.checked: list[str] = []
        self.parity: dict[str, str] = {}
        self.utilization: dict[str, float] = {}

    def __call__(self, config: TrainConfig, job: Job, _starter: JobStarter, method: str) -> RunResult:
        self.methods.append(method)
        self.names.append(job.name)
        self.machines.append(job.machine)
        end = next((end for name, end in self.ends.items() if name in job.name), "FINISHED")
        if end == NOT_APPLICABLE:
            return RunResult("", NOT_APPLICABLE, error="precision=tf32: needs a GPU")
        if end == "LOST":  # it ended before it had a run
            return RunResult("", "KILLED", error="took longer than sweep.job_minutes=1")
        store = open_store(config.tracking, PROJECT)
        run = store.start(
            job.name,
            job.parent_id,
            {"arm": job.arm, "config.hash": job.hash} | ({PARITY: job.parity} if job.parity else {}),
        )
        run.params(config.recorded())
        if config.accelerator.is_emulated:
            run.tags({"device.type": EMULATED})
        if end is KeyboardInterrupt:
            run.end("KILLED")
            raise KeyboardInterrupt
        if end == "FINISHED":
            run.metric("rate/samples_per_s", 100.0 + len(self.names), 1)
            run.metric("time/train_s", 3.0, 1)
            for name, percent in self.utilization.items():
                if name in job.name:
                    run.metric(utilization_metric(emulated=config.accelerator.is_emulated), percent, 1)
        run.end(end)
        return RunResult(run.run_id, end, error="" if end == "FINISHED" else "it broke")

    def check_parity(
        self, arms: Sequence[ComparedLoader], _minutes: float | None, *_: object
    ) -> dict[str, dict[str, Any]]:
        """Replaces the process that checks the loaders of a sweep."""
        self.checked += [arm.name for arm in arms]
        return {arm.key: {"loader": arm.name, "status": self.parity.get(arm.name, SAME_WORK)} for arm in arms}

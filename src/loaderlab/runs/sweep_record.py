"""A sweep in the store: its parent run, the list of its jobs, and the results that are already recorded."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from loaderlab.config import EMULATED, UserError, refuse
from loaderlab.runs import sweep_jobs
from loaderlab.runs.job import RunResult
from loaderlab.runs.sweep_jobs import SweepJob
from loaderlab.system import slurm
from loaderlab.system.files import write_text
from loaderlab.system.slurm import SlurmError
from loaderlab.tracking.records import RunRecord
from loaderlab.tracking.store import Store
from loaderlab.tracking.tracked_run import TrackedRun


@dataclass(frozen=True)
class OpenSweep:
    """A sweep whose jobs can start.

    Attributes:
        parent: its run, which is RUNNING.
        planned: its jobs. With ``resume``, jobs that are still in Slurm have their ids.
        done: the results of the jobs that have finished, by job hash.
    """

    parent: TrackedRun
    planned: list[SweepJob]
    done: dict[str, RunResult]


def open_sweep(
    store: Store, planned: list[SweepJob], task_overrides: list[str], resume: str | None, *, on_slurm: bool = False
) -> OpenSweep:
    """The sweep, with its list of jobs saved.

    Args:
        on_slurm: whether the jobs run in Slurm. If the launching process of an earlier command was interrupted, the jobs that it
            had submitted keep their ids: they are collected, and not submitted again.

    Raises:
        UserError: the sweep to resume has other jobs, is still running, or has jobs in Slurm and ``on_slurm`` is False.
    """
    if resume is None:
        tags = {"sweep": "parent", "sweep.num_jobs": str(len(planned))}
        if all(job.is_emulated for job in planned):
            tags["device.type"] = EMULATED
        parent = store.start(sweep_jobs.sweep_name(planned, task_overrides), None, tags)
        save_jobs(parent, planned)
        return OpenSweep(parent, planned, {})
    former, recorded_jobs = former_sweep(store, resume)
    if former.status == "RUNNING":
        raise refuse(
            "resume",
            resume,
            f"{former.name} is still running, or was started on another machine",
            "resume=latest after it has ended",
        )
    if changes := sweep_jobs.changes(recorded_jobs, planned):
        raise refuse(
            "resume",
            resume,
            f"some jobs of that sweep ({former.name}) are not in this command: {'; '.join(changes)}. A resumed sweep may add "
            "repeats and arms, but not change settings",
            "its original command with resume=…, or leave out resume",
            is_example=False,
        )
    children = store.runs(f"tags.`mlflow.parentRunId` = '{former.run_id}'")
    done = {
        run.tags["config.hash"]: RunResult(run.run_id, run.status, dict(run.figures))
        for run in children
        if run.status == "FINISHED" and "config.hash" in run.tags
    }
    if on_slurm and former.status == "KILLED":
        planned = _with_slurm_ids(planned, recorded_jobs)
    elif not on_slurm:
        _refuse_live(recorded_jobs, resume)
    parent = store.resume(former.run_id)
    parent.tags({"sweep.num_jobs": str(len(planned))})
    save_jobs(parent, planned)
    return OpenSweep(parent, planned, done)


def _with_slurm_ids(planned: Sequence[SweepJob], recorded_jobs: Sequence[SweepJob]) -> list[SweepJob]:
    ids = {job.hash: job.slurm_id for job in recorded_jobs}
    return [replace(job, slurm_id=ids.get(job.hash, "")) for job in planned]


def _refuse_live(recorded_jobs: Sequence[SweepJob], resume: str) -> None:
    """Raises:
    UserError: jobs of the sweep are still in Slurm, so that they would run twice.
    """
    submitted = {job.slurm_id for job in recorded_jobs if job.slurm_id}
    if not submitted:
        return
    try:
        states = slurm.own_jobs()
    except SlurmError:
        return  # not on this host's cluster
    if live := [job_id for job_id in submitted if job_id in states and not states[job_id].has_ended]:
        raise refuse(
            "resume",
            resume,
            f"its Slurm jobs {', '.join(sorted(live))} still run or wait",
            "sweep.on=slurm",
            is_example=False,
        )


def former_sweep(store: Store, resume: str) -> tuple[RunRecord, list[SweepJob]]:
    """The parent run of a recorded sweep, and its jobs.

    Raises:
        UserError: there is no such sweep, or it has no list of its jobs.
    """
    from loaderlab.runs.chosen_runs import chosen_sweep

    try:
        former = chosen_sweep(store, resume)
    except UserError as error:
        raise UserError(str(error).replace("runs=", "resume=")) from None
    text = store.read(former.run_id, sweep_jobs.FILE)
    if text is None:
        raise refuse("resume", resume, f"{former.name} has no list of its jobs, so it cannot be resumed", "resume=null")
    return former, sweep_jobs.from_json(text)


def save_jobs(parent: TrackedRun, planned: Sequence[SweepJob]) -> None:
    """Saves the list of jobs with the parent run."""
    save_file(parent, sweep_jobs.FILE, sweep_jobs.to_json(planned))


def save_file(parent: TrackedRun, name: str, text: str) -> None:
    """Saves a text as an artifact of the parent run."""
    with tempfile.TemporaryDirectory(prefix="loaderlab-") as folder:
        write_text(Path(folder) / name, text)
        parent.artifacts(Path(folder))

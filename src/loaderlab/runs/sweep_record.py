"""A sweep in the store: its parent run, the list of its jobs, and what an earlier command has done of them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from loaderlab.config import UserError, refuse
from loaderlab.runs import sweep_jobs
from loaderlab.runs.job import RunResult
from loaderlab.runs.sweep_jobs import SweepJob
from loaderlab.system.files import write_text
from loaderlab.tracking.records import RunRecord
from loaderlab.tracking.store import Store
from loaderlab.tracking.tracked_run import TrackedRun


def open_parent(
    store: Store, planned: list[SweepJob], task_overrides: list[str], resume: str | None
) -> tuple[TrackedRun, dict[str, RunResult]]:
    """The parent run, with the list of its jobs kept, and by hash the results of the jobs that are done already.

    Raises:
        UserError: the sweep to resume is another one, or still running.
    """
    if resume is None:
        name = " ".join(text for text in task_overrides if "," in text or text.startswith("study="))
        tags = {"sweep": "parent", "sweep.num_jobs": str(len(planned))}
        parent = store.start(f"sweep {name}".strip(), None, tags)
        keep_jobs(parent, planned)
        return parent, {}
    former, before = former_sweep(store, resume)
    if former.status == "RUNNING":
        raise refuse(
            "resume",
            resume,
            f"{former.name} is still running, or its machine is another one than this",
            "resume=latest, when it has ended",
        )
    if changes := sweep_jobs.changes(before, planned):
        raise refuse(
            "resume",
            resume,
            f"not all jobs of that sweep ({former.name}) are jobs of this command: {'; '.join(changes)}. A sweep may grow by "
            "repeats and arms, and not change",
            "its own command with resume=…, or leave resume out",
            is_example=False,
        )
    children = store.runs(f"tags.`mlflow.parentRunId` = '{former.run_id}'")
    done = {
        run.tags["config.hash"]: RunResult(run.run_id, run.status, dict(run.figures))
        for run in children
        if run.status == "FINISHED" and "config.hash" in run.tags
    }
    parent = store.go_on(former.run_id)
    parent.tags({"sweep.num_jobs": str(len(planned))})
    keep_jobs(parent, planned)
    return parent, done


def former_sweep(store: Store, resume: str) -> tuple[RunRecord, list[SweepJob]]:
    """The parent run of a recorded sweep, and its jobs.

    Raises:
        UserError: there is no such sweep, or it has no list of its jobs.
    """
    from loaderlab.runs.compare_runs import chosen_sweep

    try:
        former = chosen_sweep(store, resume)
    except UserError as error:
        raise UserError(str(error).replace("runs=", "resume=")) from None
    text = store.read(former.run_id, sweep_jobs.FILE)
    if text is None:
        raise refuse("resume", resume, f"{former.name} has no plan of its jobs to go on with", "resume=null")
    return former, sweep_jobs.from_json(text)


def keep_jobs(parent: TrackedRun, planned: Sequence[SweepJob]) -> None:
    """Keeps the list of jobs with the parent run."""
    keep_file(parent, sweep_jobs.FILE, sweep_jobs.to_json(planned))


def keep_file(parent: TrackedRun, name: str, text: str) -> None:
    """Keeps a text as an artifact of the parent run."""
    with tempfile.TemporaryDirectory(prefix="loaderlab-") as folder:
        write_text(Path(folder) / name, text)
        parent.artifacts(Path(folder))

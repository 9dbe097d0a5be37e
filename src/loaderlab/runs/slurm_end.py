"""The result of a Slurm job that ended without returning one."""

from __future__ import annotations

from dataclasses import replace

from loaderlab.runs.job import RunResult
from loaderlab.system.slurm import BY_SLURM, JobState
from loaderlab.tracking.records import SLURM_JOB
from loaderlab.tracking.store import Store


def result_of(job_id: str, state: JobState, last_line: str, store: Store) -> RunResult:
    """What is known of a job that ended without a result. Its run is closed if it is still RUNNING: its process has ended on
    another host, where the store cannot see it.

    Args:
        last_line: what it printed last; empty if nothing helps.
    """
    where = f" on {state.nodes}" if state.nodes and state.nodes not in str(state) else ""
    why = f"{state}{where}" + (f": {last_line}" if last_line else "")
    runs = store.runs(f"tags.`{SLURM_JOB}` = '{job_id}'")
    if not runs:
        status = "KILLED" if state.state in ("CANCELLED", "PREEMPTED", "TIMEOUT") else "FAILED"
        return RunResult("", status, error=why)
    run = runs[-1]
    if run.status != "RUNNING":
        return RunResult(run.run_id, run.status, dict(run.figures), run.tags.get("error", ""))
    store.correct(run.run_id, "KILLED", {"error": why}, {}, {})
    return RunResult(run.run_id, "KILLED", error=why)


def with_cause(result: RunResult, job_id: str, state: JobState, store: Store) -> RunResult:
    """The result of a job that was interrupted by SIGTERM, with why Slurm sent it, as its run then says too. While the job ran,
    Slurm may not have said why: a preempted job is still RUNNING in its time of grace."""
    if state.state not in BY_SLURM:
        return result
    why = f"{state}, with SIGTERM"
    for run in store.runs(f"tags.`{SLURM_JOB}` = '{job_id}'"):
        store.correct(run.run_id, "KILLED", {"error": why}, {}, {})
    return replace(result, error=why)

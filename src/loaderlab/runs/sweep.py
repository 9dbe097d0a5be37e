"""A multirun: every job in a fresh process, a parent run above them in MLflow, and a comparison at the end.

The jobs come composed and checked from the Hydra launcher in ``hydra_plugins/``: only a launcher sees all of them.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from loaderlab.config import PROJECT, Failed, TrackingConfig, TrainConfig, UserError, refuse
from loaderlab.parity.status import NOT_CHECKED, PARITY, SAME_WORK
from loaderlab.runs import sweep_jobs
from loaderlab.runs.job import Job, RunResult
from loaderlab.system import machine
from loaderlab.tracking.records import NOT_APPLICABLE, RunRecord

if TYPE_CHECKING:
    from loaderlab.system.terminal import Terminal
    from loaderlab.tracking.store import Store, TrackedRun


def recorded_overrides(settings: TrackingConfig, resume: str) -> list[list[str]]:
    """The overrides of each job of a recorded sweep.

    Raises:
        UserError: there is no such sweep, or it has no plan.
    """
    from loaderlab.tracking import open_store

    _, planned = _former(open_store(settings, PROJECT), resume)
    return [job.overrides for job in planned]


def run_sweep(
    jobs: Sequence[tuple[TrainConfig, list[str]]], task_overrides: list[str], resume: str | None = None
) -> None:
    """Runs the jobs under one parent run, a round of repeats after the other.

    Args:
        jobs: configuration and overrides of each.
        task_overrides: the command, for the parent's name.
        resume: ``latest`` or the run id of a sweep whose missing and failed jobs are to be run.

    Raises:
        UserError: nothing was started: the jobs name different stores, two are the same, there is one only, or the sweep
            to go on with is another one.
        Failed: after all of them, where one failed or was killed.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the job in hand is ended and recorded, the parent is KILLED. A second one
            ends it at once.
    """
    from loaderlab.system.processes import sigterm_raises
    from loaderlab.system.terminal import Terminal
    from loaderlab.tracking import open_store

    terminal = Terminal()
    jobs = sorted(jobs, key=lambda job: job[0].repeat)  # stable: the arms of a round stay in their order
    settings = jobs[0][0].tracking
    if any(config.tracking != settings for config, _ in jobs):
        raise UserError("tracking: one sweep goes to one store and experiment. Leave tracking.* out of the axes")
    planned = sweep_jobs.make(jobs)
    if (same := sweep_jobs.twice(planned)) is not None:
        named = planned[same[1] - 1].name
        raise UserError(
            f"jobs {same[0]} and {same[1]} of this sweep are the same: {named}. Leave one of the values out"
        )
    if len(planned) == 1 and resume is None:
        raise UserError(
            "a sweep of one job has nothing to compare. Leave out -m, or give a setting several values: "
            "-m repeat=1,2,3 loader=native,dali"
        )
    store = open_store(settings, PROJECT)
    parent, done = _open(store, planned, task_overrides, resume)
    with sigterm_raises(), parent:
        if resume is not None:
            terminal.say(f"resumed {parent.run_id}: {len(done)} of {len(planned)} jobs are done")
        try:
            results = _run_all(jobs, planned, done, parent, store, terminal)
            _conclude(store, parent, terminal)
        except KeyboardInterrupt:
            store.close_dead_runs()  # a job that was ended at once
            _conclude(store, parent, terminal, pictures=False)
            terminal.say(f"to go on: python -m experiments.train -m resume={parent.run_id}{store.typed}")
            raise
        finally:
            terminal.say(store.how_to_look())
        failed = [
            job.name
            for job, result in zip(planned, results, strict=True)
            if result.status not in ("FINISHED", NOT_APPLICABLE)
        ]
        if failed:
            raise Failed(
                f"{len(failed)} of {len(planned)} jobs did not finish: {'; '.join(failed)}. To run them again: "
                f"python -m experiments.train -m resume={parent.run_id}{store.typed}"
            )


def _open(
    store: Store, planned: list[sweep_jobs.PlannedJob], task_overrides: list[str], resume: str | None
) -> tuple[TrackedRun, dict[str, RunResult]]:
    """The parent run, with the plan kept, and by hash the jobs that are done already."""
    if resume is None:
        name = " ".join(text for text in task_overrides if "," in text or text.startswith("study="))
        tags = {"sweep": "parent", "sweep.num_jobs": str(len(planned))}
        parent = store.start(f"sweep {name}".strip(), None, tags)
        _keep(parent, planned)
        return parent, {}
    former, before = _former(store, resume)
    if former.status == "RUNNING":
        raise refuse(
            "resume",
            resume,
            f"{former.name} is still running, or its machine is another one than this",
            "resume=latest, when it has ended",
        )
    if changes := sweep_jobs.changes(before, planned):
        raise UserError(
            f"resume={resume}: not all jobs of that sweep ({former.name}) are jobs of this command: {'; '.join(changes)}. "
            "A sweep may grow by repeats and arms, and not change. Type its own command with resume=…, or leave resume out"
        )
    children = store.runs(f"tags.`mlflow.parentRunId` = '{former.run_id}'")
    done = {
        run.tags["config.hash"]: RunResult(run.run_id, run.status, dict(run.figures))
        for run in children
        if run.status == "FINISHED" and "config.hash" in run.tags
    }
    parent = store.go_on(former.run_id)
    parent.tags({"sweep.num_jobs": str(len(planned))})
    _keep(parent, planned)
    return parent, done


def _former(store: Store, resume: str) -> tuple[RunRecord, list[sweep_jobs.PlannedJob]]:
    from loaderlab.runs.compare_runs import chosen_sweep

    try:
        former = chosen_sweep(store, resume)
    except UserError as error:
        raise UserError(str(error).replace("runs=", "resume=")) from None
    text = store.read(former.run_id, sweep_jobs.FILE)
    if text is None:
        raise refuse("resume", resume, f"{former.name} has no plan of its jobs to go on with", "resume=null")
    return former, sweep_jobs.from_json(text)


def _keep(parent: TrackedRun, planned: Sequence[sweep_jobs.PlannedJob]) -> None:
    _keep_file(parent, sweep_jobs.FILE, sweep_jobs.to_json(planned))


def _keep_file(parent: TrackedRun, name: str, text: str) -> None:
    with tempfile.TemporaryDirectory(prefix="loaderlab-") as folder:
        (Path(folder) / name).write_text(text)
        parent.artifacts(Path(folder))


def _held_alike(configs: Sequence[TrainConfig], parent: TrackedRun, store: Store, terminal: Terminal) -> dict[str, str]:
    """By `sweep_jobs.loader_key` the tag that tells whether a loader does the same work as the others; of a sweep that is gone
    on with, what was found before stands."""
    if not configs[0].sweep.parity or all(config.measure.parity for config in configs):
        return {}
    from loaderlab.runs.launch import check_parity

    found = json.loads(store.read(parent.run_id, sweep_jobs.PARITY_FILE) or "{}")
    arms = sweep_jobs.compared_loaders(configs)
    left = [arm for arm in arms if found.get(arm.key, {"status": NOT_CHECKED})["status"].startswith(NOT_CHECKED)]
    if left:
        terminal.say(f"\nparity: do {len(arms)} loaders do the same work? (sweep.parity=false does not ask)")
        found |= check_parity(left, configs[0].sweep.job_minutes)
        _keep_file(parent, sweep_jobs.PARITY_FILE, json.dumps(found, indent=1))
        other = [f"{entry['loader']}: {entry['status']}" for entry in found.values() if entry["status"] != SAME_WORK]
        parent.tags({PARITY: "; ".join(other) or SAME_WORK})
    return {key: entry["status"] for key, entry in found.items()}


def _run_all(
    jobs: Sequence[tuple[TrainConfig, list[str]]],
    planned: Sequence[sweep_jobs.PlannedJob],
    done: dict[str, RunResult],
    parent: TrackedRun,
    store: Store,
    terminal: Terminal,
) -> list[RunResult]:
    from loaderlab.runs.launch import launch

    results: list[RunResult] = []
    took: list[float] = []
    alike: dict[str, str] = {}
    if any(job.hash not in done and not job.not_applicable for job in planned):
        alike = _held_alike([config for config, _ in jobs], parent, store, terminal)
    for index, ((config, _), job) in enumerate(zip(jobs, planned, strict=True)):
        if job.hash in done:
            results.append(done[job.hash])
            continue
        if job.not_applicable:  # as another repeat of its arm has told
            results.append(RunResult("", NOT_APPLICABLE, error=job.not_applicable))
            continue
        left = sum(other.hash not in done and not other.not_applicable for other in planned[index:])
        about = f" (about {_duration(left * sum(took) / len(took))} left)" if took else ""
        terminal.say(f"\njob {index + 1} of {len(planned)}: {job.name}{about}")
        state = machine.state()
        for text in machine.warnings(state):
            terminal.warn(text)
        began = time.monotonic()
        found = alike.get(sweep_jobs.loader_key(config), "")
        named = Job(job.name, job.arm, parent.run_id, tuple(job.overrides), job.hash, state, found)
        result = launch(config, named)
        results.append(result)
        if result.status == NOT_APPLICABLE:
            for other in planned:
                other.not_applicable = result.error if other.arm == job.arm else other.not_applicable
            _keep(parent, planned)
            terminal.say(f"{NOT_APPLICABLE}: {result.error}")
            continue
        took.append(time.monotonic() - began)
        if result.status != "FINISHED":
            why = next(iter(result.error.splitlines()), "")
            if not result.run_id:  # it may have ended before it had a run to say why
                job.ended = f"{result.status.lower()}: {why or 'no reason given'}"
                _keep(parent, planned)
            terminal.say(f"{job.name}: {result.status.lower()}: {why}")
            store.close_dead_runs(result.error)
        if index + 1 < len(planned):
            _standing(store, parent.run_id, terminal)
    return results


def _standing(store: Store, parent_id: str, terminal: Terminal) -> None:
    """The table as it is now; nothing while no job has finished."""
    from loaderlab.runs import compare_runs

    try:
        compare_runs.show_tables(compare_runs.comparison_of_sweep(store, parent_id), terminal)
    except UserError:
        return


def _conclude(store: Store, parent: TrackedRun, terminal: Terminal, *, pictures: bool = True) -> None:
    """The comparison, on the terminal and with the parent run; drawing takes seconds, for which one who interrupts does
    not wait."""
    from loaderlab.runs import compare_runs

    try:
        comparison = compare_runs.comparison_of_sweep(store, parent.run_id)
    except UserError as error:
        terminal.say(f"nothing to compare: {error}")
        parent.tags({"mlflow.note.content": str(error)})
        return
    compare_runs.show(comparison, terminal)
    compare_runs.attach_to_sweep(comparison, store, parent, pictures=pictures)
    terminal.say(f"as a page: python -m experiments.compare runs={parent.run_id} output=report{store.typed}")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"

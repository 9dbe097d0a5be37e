"""A multirun: every job in a fresh process, a parent run above them in MLflow, a table of all at the end.

The jobs come composed and checked from the Hydra launcher in ``hydra_plugins/``: only a launcher sees all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from loaderlab.config import PROJECT, TrainConfig, UserError
from loaderlab.jobs import Job, RunResult, single

if TYPE_CHECKING:
    from loaderlab.terminal import Terminal


class SweepFailed(Exception):
    """At least one job of a sweep did not finish."""


def varying(job_overrides: Sequence[Sequence[str]]) -> list[list[str]]:
    """Of each job the overrides that not every job has: what its name is made of.

    >>> varying([["epochs=2", "loader=dali"], ["epochs=2", "loader=native"]])
    [['loader=dali'], ['loader=native']]
    """
    common = set.intersection(*(set(overrides) for overrides in job_overrides))
    return [[text for text in overrides if text not in common] for overrides in job_overrides]


def name_jobs(jobs: Sequence[tuple[TrainConfig, list[str]]], parent_id: str) -> list[Job]:
    """Names by what differs; the arm is that without the repeat, so that repeats of one arm share it."""
    named = []
    for (config, overrides), differing in zip(jobs, varying([overrides for _, overrides in jobs]), strict=True):
        own = single(config, overrides).name
        arm = " ".join(text for text in differing if not text.startswith("repeat="))
        named.append(Job(" ".join(differing) or own, arm or own, parent_id, tuple(overrides)))
    return named


def run_sweep(jobs: Sequence[tuple[TrainConfig, list[str]]], task_overrides: list[str]) -> None:
    """Runs the jobs in order under one parent run.

    Raises:
        UserError: the jobs name different stores.
        SweepFailed: after all of them, where one failed or was killed.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the job in hand is ended, the parent is KILLED.
    """
    from loaderlab import tracking
    from loaderlab.launch import launch
    from loaderlab.processes import sigterm_raises
    from loaderlab.terminal import Terminal

    terminal = Terminal()
    settings = jobs[0][0].tracking
    if any(config.tracking != settings for config, _ in jobs):
        raise UserError("tracking: one sweep goes to one store and experiment. Leave tracking.* out of the axes")
    store = tracking.Store(settings, PROJECT)
    tags = {"sweep": "parent", "sweep.num_jobs": str(len(jobs))}
    name = "sweep " + " ".join(text for text in task_overrides if "," in text)
    with sigterm_raises(), store.start(name.strip(), None, tags) as parent:
        parent.params([("overrides", " ".join(task_overrides))])
        named = name_jobs(jobs, parent.run_id)
        results: list[RunResult] = []
        try:
            for index, ((config, _), job) in enumerate(zip(jobs, named, strict=True)):
                terminal.say(f"\njob {index + 1} of {len(jobs)}: {job.name}")
                results.append(launch(config, job))
        finally:
            store.close_dead_runs()  # of a job whose process was killed
            _report(terminal, parent, named, results)
            terminal.say(f"recorded: {tracking.ui_command(store.uri)}")
        if failed := [job.name for job, result in zip(named, results, strict=True) if result.status != "FINISHED"]:
            raise SweepFailed(f"{len(failed)} of {len(jobs)} jobs did not finish: {'; '.join(failed)}")


def _report(terminal: Terminal, parent: Any, named: Sequence[Job], results: Sequence[RunResult]) -> None:
    """The table of all jobs, those that were not reached among them, on the terminal and on the parent's page."""
    from loaderlab.report import table

    columns = ("job", "status", "verdict", *(column for _, column, _ in table.SIDE_BY_SIDE))
    rows = []
    for index, job in enumerate(named):
        if index < len(results):
            result = results[index]
            rows.append([job.name, result.status.lower(), result.verdict or "–", *table.side_by_side(result.figures)])
        else:
            rows.append([job.name, "not finished", "–", *table.side_by_side({})])
    terminal.table("all jobs", columns, rows)
    for job, result in zip(named, results, strict=False):
        if result.error:
            terminal.say(f"{job.name}: {result.error.splitlines()[0]}")
    parent.tags({"mlflow.note.content": table.markdown_table(columns, rows)})

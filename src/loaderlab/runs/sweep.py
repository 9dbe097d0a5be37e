"""A multirun: every job in a fresh process, a parent run in MLflow, and a comparison at the end.

The Hydra launcher in ``hydra_plugins/`` composes and checks the jobs, since only a launcher sees all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from loaderlab.config import (
    SLURM,
    Failed,
    GateNotJudged,
    RunFailIfConfig,
    TrackingConfig,
    TrainConfig,
    UserError,
    WrongUsage,
    refuse,
    store_root,
)
from loaderlab.runs import sweep_jobs
from loaderlab.system.program import command
from loaderlab.tracking.records import NOT_APPLICABLE

if TYPE_CHECKING:
    from loaderlab.compare.arms import Comparison
    from loaderlab.system.terminal import Terminal
    from loaderlab.tracking.store import Store
    from loaderlab.tracking.tracked_run import TrackedRun


def recorded_overrides(settings: TrackingConfig, resume: str) -> list[list[str]]:
    """The overrides of each job of a recorded sweep.

    Raises:
        UserError: there is no such sweep, or it has no list of jobs.
    """
    from loaderlab.runs.sweep_record import former_sweep
    from loaderlab.tracking import open_store

    _, planned = former_sweep(open_store(settings, store_root()), resume)
    return [job.overrides for job in planned]


def run_sweep(
    jobs: Sequence[tuple[TrainConfig, list[str]]], task_overrides: list[str], resume: str | None = None
) -> None:
    """Runs the jobs under one parent run: first repeat 1 of every arm, then repeat 2, and so on. With ``sweep.on=slurm`` they are
    submitted to Slurm in this order.

    Args:
        jobs: configuration and overrides of each job.
        task_overrides: the overrides of the command, for the parent's name.
        resume: ``latest`` or the run id of a sweep; only its missing and failed jobs run.

    Raises:
        UserError: no job was started, because the jobs use different stores, two are the same, there is only one, or the
            sweep to resume has other jobs.
        Failed: a job failed or was killed; raised after the last job.
        GateFailed, GateNotJudged: every job finished, and the gate ``fail_if`` is not passed.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the current job is ended and recorded, the parent is KILLED. A second one
            ends the job at once. Jobs in Slurm continue.
    """
    from loaderlab.runs.sweep_plan import SweepPlan
    from loaderlab.runs.sweep_record import open_sweep
    from loaderlab.runs.sweep_runner import SweepRunner
    from loaderlab.system.processes import sigterm_raises
    from loaderlab.system.terminal import Terminal
    from loaderlab.tracking import open_store

    terminal = Terminal()
    jobs = sorted(jobs, key=lambda job: job[0].repeat)  # stable: the arms of a repeat keep their order
    planned = sweep_jobs.sweep_jobs(jobs)
    configs = [config for config, _ in jobs]
    _check_jobs(configs, planned, resume)
    on_slurm = configs[0].sweep.on == SLURM
    if on_slurm:
        from loaderlab.runs.slurm_sweep import SlurmSweep, check_cluster

        check_cluster(configs)
    store = open_store(configs[0].tracking, store_root())
    sweep = open_sweep(store, planned, task_overrides, resume, on_slurm=on_slurm)
    parent = sweep.parent
    with sigterm_raises(hangup=on_slurm), parent:
        if resume is not None:
            terminal.say(f"resumed {parent.run_id}: {len(sweep.done)} of {len(planned)} jobs are done")
        plan = SweepPlan(sweep.planned, sweep.done, parent, store, terminal)
        try:
            runner = SlurmSweep(configs, plan, terminal) if on_slurm else SweepRunner(configs, plan, terminal)
            results = runner.run()
            comparisons = _conclude(store, parent, terminal)
        except KeyboardInterrupt:
            store.close_dead_runs()  # the run of a job that was killed
            _conclude(store, parent, terminal, pictures=False)
            terminal.say(f"to continue: {command('train')} -m resume={parent.run_id}{store.typed}")
            raise
        finally:
            terminal.say(store.ui_text())
        failed = [
            job.name
            for job, result in zip(planned, results, strict=True)
            if result.status not in ("FINISHED", NOT_APPLICABLE)
        ]
        if failed:
            raise Failed(
                f"{len(failed)} of {len(planned)} jobs did not finish: {'; '.join(failed)}. To run them again: "
                f"{command('train')} -m resume={parent.run_id}{store.typed}"
            )
    _check_gate(jobs[0][0].fail_if, comparisons, terminal)


def _check_gate(fail_if: RunFailIfConfig, comparisons: Sequence[Comparison], terminal: Terminal) -> None:
    """Raises:
    GateFailed, GateNotJudged: the sweep has a gate, and it is not passed.
    """
    limit = fail_if.utilization_below
    if limit is None:
        return
    if not comparisons:
        raise GateNotJudged(f"fail_if.utilization_below={limit:g}: no job was measured, so the gate cannot pass")
    from loaderlab.runs import utilization_gate

    for comparison in comparisons:
        utilization_gate.check_comparison(comparison, limit, terminal)


def _check_jobs(configs: Sequence[TrainConfig], planned: Sequence[sweep_jobs.SweepJob], resume: str | None) -> None:
    """Raises:
    WrongUsage: the jobs do not form a sweep.
    """
    if any(config.tracking != configs[0].tracking for config in configs):
        raise WrongUsage("tracking: one sweep goes to one store and experiment. Leave tracking.* out of the axes")
    if any(
        (config.sweep.on, config.sweep.slurm) != (configs[0].sweep.on, configs[0].sweep.slurm) for config in configs
    ):
        raise WrongUsage(
            "sweep: all jobs of a sweep run in the same place. Leave sweep.on and sweep.slurm.* out of the axes"
        )
    check_kind({job.is_emulated for job in planned})
    if (same := sweep_jobs.duplicates(planned)) is not None:
        named = planned[same[1] - 1].name
        raise WrongUsage(
            f"jobs {same[0]} and {same[1]} of this sweep are the same: {named}. Leave one of the values out"
        )
    if len(planned) == 1 and resume is None:
        raise WrongUsage(
            "a sweep of one job has nothing to compare. Leave out -m, or give a setting several values: "
            "-m repeat=1,2,3 loader=native,dali"
        )


def check_kind(kinds: Collection[bool]) -> None:
    """Checks that a sweep is emulated or real.

    Args:
        kinds: whether each job is emulated, without duplicates.

    Raises:
        WrongUsage: it has both kinds of jobs.
    """
    if len(kinds) > 1:
        raise refuse(
            "accelerator",
            "none",
            "a sweep is emulated or real, not both, because their results cannot be compared",
            "accelerator=none in one sweep, and accelerator=… in another",
            is_example=False,
        )


def _conclude(store: Store, parent: TrackedRun, terminal: Terminal, *, pictures: bool = True) -> list[Comparison]:
    """The comparisons, after printing them and saving them with the parent run; empty if there is nothing to compare.

    Without ``pictures`` after an interrupt, since they take seconds.
    """
    from loaderlab.report.on_terminal import show
    from loaderlab.runs.chosen_runs import comparisons_of_sweep
    from loaderlab.runs.sweep_page import attach_to_sweep

    try:
        comparisons = comparisons_of_sweep(store, parent.run_id)
    except UserError as error:
        terminal.say(f"nothing to compare: {error}")
        parent.tags({"mlflow.note.content": str(error)})
        return []
    for comparison in comparisons:
        show(comparison, terminal)
    attach_to_sweep(comparisons, store, parent, pictures=pictures)
    terminal.say(f"as a page: {command('compare')} runs={parent.run_id} output=report{store.typed}")
    return comparisons

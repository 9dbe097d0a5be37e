"""The runs of the store that a comparison has: of a sweep, of two sweeps, or all that match a filter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from loaderlab.compare.arms import Comparison
from loaderlab.compare.kinds import check_sweep, compare_kinds
from loaderlab.config import AUTO, CompareConfig, refuse
from loaderlab.runs import sweep_jobs
from loaderlab.system.program import command
from loaderlab.tracking.records import Missing, RunRecord
from loaderlab.tracking.store import Store


def comparisons_of(store: Store, config: CompareConfig) -> list[Comparison]:
    """The comparison that the settings request; two if the runs are real and emulated, the emulated one last."""
    options: dict[str, Any] = {"baseline": config.baseline_settings}
    if config.filter is not None or config.runs == "all":
        runs = [entry for entry in store.runs(config.filter or "") if entry.tags.get("sweep") != "parent"]
        where = f"filter={config.filter}" if config.filter is not None else "all runs"
        title, missing = f"{where} of {config.tracking.experiment}", list[Missing]()
    else:
        parent = chosen_sweep(store, config.runs)
        runs, missing = _runs_of_sweep(store, parent)
        title = parent.name
    if config.baseline_sweep is not None:
        base = chosen_sweep(store, config.baseline_sweep)
        if {run.parent_id for run in runs} == {base.run_id}:
            raise refuse(
                "baseline",
                config.baseline_sweep,
                "is the sweep itself",
                "runs=latest baseline=the run id of an earlier one",
            )
        others, _ = _runs_of_sweep(store, base)
        check_sweep(config.baseline_sweep, base.name, runs, others)
        kinds = {run.is_emulated for run in runs}
        others = [run for run in others if run.is_emulated in kinds]
        labels = (f"{base.run_id[:8]}", "now")
        runs = [*(_marked(entry, labels[0]) for entry in others), *(_marked(entry, labels[1]) for entry in runs)]
        options["baseline"] = {"sweep": labels[0]}
        title += f", compared with {base.name} ({base.run_id[:8]})"
    metric = None if config.metric == AUTO else config.metric
    return compare_kinds(title, runs, missing, metric=metric, **options)


def comparisons_of_sweep(store: Store, parent_id: str) -> list[Comparison]:
    """The comparison of a sweep's jobs that have finished so far; two if some are real and some emulated.

    Raises:
        UserError: none of its jobs has finished.
    """
    parent = store.run(parent_id)
    assert parent is not None
    runs, missing = _runs_of_sweep(store, parent)
    return compare_kinds(parent.name, runs, missing)


def chosen_sweep(store: Store, chosen: str) -> RunRecord:
    """The parent run that ``latest`` or a run id selects.

    Raises:
        UserError: there is no such run, or it is a single run.
    """
    if chosen == "latest":
        newest = store.newest_sweep()
        if newest is None:
            raise refuse(
                "runs",
                "latest",
                f"there is no sweep in {store.uri} yet",
                f"{command('train')} -m repeat=1,2,3 loader=native,dali",
            )
        return newest
    run = store.run(chosen)
    if run is None or run.tags.get("sweep") != "parent":
        problem = "there is no such run" if run is None else f"is {run.name}, a single run and not a sweep"
        parent = f"runs={run.parent_id}" if run is not None and run.parent_id else "runs=latest"
        known = store.sweeps()[-3:]
        newest_sweeps = ", ".join(f"{entry.run_id} ({entry.name})" for entry in known)
        listed = f"; the newest sweeps are {newest_sweeps}" if known else ""
        raise refuse("runs", chosen, f"{problem}{listed}", parent)
    return run


def _runs_of_sweep(store: Store, parent: RunRecord) -> tuple[list[RunRecord], list[Missing]]:
    """The sweep's runs in the order of the plan, and the jobs without a run."""
    runs = store.runs(f"tags.`mlflow.parentRunId` = '{parent.run_id}'")
    text = store.read(parent.run_id, sweep_jobs.FILE)
    if text is None:  # an old record without a plan
        return runs, []
    planned = sweep_jobs.from_json(text)
    # the arms keep the order of the plan even if some of their jobs failed
    arms = {arm: index for index, arm in enumerate(dict.fromkeys(job.arm for job in planned))}
    place = {job.hash: arms[job.arm] for job in planned}
    runs.sort(key=lambda entry: (place.get(entry.tags.get("config.hash", ""), len(arms)), entry.started_ms))
    return runs, sweep_jobs.unreached(planned, runs)


def _marked(entry: RunRecord, label: str) -> RunRecord:
    """The run with its sweep added as a setting, so that the two sweeps become different arms."""
    return replace(entry, settings={**entry.settings, "sweep": label})

"""Checks whether the runs that a command recorded are complete. MLflow is imported when a store is opened."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

ARTIFACTS = ("steps.csv", "config.yaml")


@dataclass(frozen=True)
class StoredRun:
    """One run in the store.

    Attributes:
        artifacts: names of its files.
    """

    run_id: str
    status: str
    num_metrics: int
    tags: dict[str, str]
    artifacts: tuple[str, ...]

    @property
    def parent_id(self) -> str | None:
        return self.tags.get("mlflow.parentRunId")

    @property
    def is_parent(self) -> bool:
        return self.tags.get("sweep") == "parent"


def stored_runs(file: Path, known: Collection[str] = ()) -> list[StoredRun]:
    """All runs of an SQLite store except those whose ids are known; none if the file does not exist."""
    if not file.exists():
        return []
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{file}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return [
        StoredRun(
            run.info.run_id,
            run.info.status,
            len(run.data.metrics),
            dict(run.data.tags),
            tuple(entry.path for entry in client.list_artifacts(run.info.run_id)),
        )
        for run in client.search_runs(experiments)
        if run.info.run_id not in known
    ]


def missing_in(run: StoredRun, artifacts: Sequence[str] = ARTIFACTS) -> str:
    """What is missing in a training run; empty if it is complete."""
    problems = [] if run.status == "FINISHED" else [f"its status is {run.status}"]
    problems += [] if run.num_metrics else ["no metrics"]
    problems += [] if run.tags.get("verdict") else ["no verdict"]
    problems += [f"no {name}" for name in artifacts if name not in run.artifacts]
    return ", ".join(problems)


def missing_in_command(command: str, runs: Sequence[StoredRun]) -> str:
    """What is missing in the new runs of a command; empty if the record is complete.

    Only ``train``, ``sweep`` and ``watch`` record runs.
    """
    if command not in ("train", "sweep", "watch"):
        return f"{len(runs)} runs were recorded" if runs else ""
    parents = [run for run in runs if run.is_parent]
    trained = [run for run in runs if not run.is_parent]
    num_trained, num_parents = (2, 1) if command == "sweep" else (1, 0)
    if (len(trained), len(parents)) != (num_trained, num_parents):
        return f"{len(trained)} runs and {len(parents)} parent runs, not {num_trained} and {num_parents}"
    for parent in parents:
        if parent.status != "FINISHED":
            return f"the status of the parent run is {parent.status}"
        if any(run.parent_id != parent.run_id for run in trained):
            return "a run that does not belong to the parent run"
    artifacts = ("steps.csv",) if command == "watch" else ARTIFACTS
    return next((problem for run in trained if (problem := missing_in(run, artifacts))), "")

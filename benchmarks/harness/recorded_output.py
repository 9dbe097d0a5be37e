"""Turns an MLflow store and a folder of files into fields, by which two checkouts can be compared."""

from __future__ import annotations

import difflib
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import FileInfo, Run
from mlflow.tracking import MlflowClient

from benchmarks.harness import masks

TEXTS = (".csv", ".json", ".md", ".html", ".txt", ".yaml")


def dump(store_uri: str, report: Path, places: Mapping[str, str]) -> dict[str, Any]:
    """All runs of a store by name, and the files of a folder, masked by `benchmarks.harness.masks`.

    Args:
        places: each path and the name that replaces it.
    """
    client = MlflowClient(store_uri)
    experiments = client.search_experiments()
    runs = [
        run for experiment in experiments for run in client.search_runs([experiment.experiment_id], max_results=10_000)
    ]
    names, whole = [_name(run) for run in runs], whole_metrics(runs)
    assert len(names) == len(set(names)), f"runs of the same name: {names}"
    return {
        "experiments": {experiment.name: masks.tags(experiment.tags, places) for experiment in experiments},
        "runs": {_name(run): _run(client, run, whole, places) for run in sorted(runs, key=_name)},
        "report": {path.name: _file(path, path.name, places) for path in sorted(report.iterdir())},
    }


def _name(run: Run) -> str:
    return str(run.info.run_name)


def whole_metrics(runs: list[Run]) -> set[str]:
    """The metrics that are a whole number in every run.

    Zeros do not count, because a share may be zero by chance. The load of the machine may be whole by chance too.
    """
    values: dict[str, list[float]] = {}
    for run in runs:
        for name, value in run.data.metrics.items():
            if value and not name.startswith(masks.MACHINE):
                values.setdefault(name, []).append(value)
    return {name for name, recorded in values.items() if all(value.is_integer() for value in recorded)}


def _run(client: MlflowClient, run: Run, whole: set[str], places: Mapping[str, str]) -> dict[str, Any]:
    run_id = run.info.run_id
    with tempfile.TemporaryDirectory() as folder:
        artifacts = {
            path: _file(Path(client.download_artifacts(run_id, path, folder)), path, places)
            for path in sorted(_artifacts(client, run_id, ""))
        }
    inputs = run.inputs.dataset_inputs if run.inputs is not None else []
    return {
        "status": run.info.status,
        "metrics": {
            name: _kind(client, run_id, name, name in whole)
            for name in sorted(run.data.metrics)
            if name not in masks.OPTIONAL_METRICS
        },
        "params": {name: masks.with_places(value, places) for name, value in sorted(run.data.params.items())},
        "tags": masks.tags(dict(sorted(run.data.tags.items())), places),
        "data sets": [masks.masked(masks.with_places(str(entry.dataset.to_dictionary()), places)) for entry in inputs],
        "artifacts": artifacts,
    }


def _kind(client: MlflowClient, run_id: str, name: str, whole: bool) -> str:
    """The kind of a metric's values and whether it has more than one step, as in ``number, one step``."""
    points = client.get_metric_history(run_id, name)
    steps = "several steps" if len({point.step for point in points}) > 1 else "one step"
    finite = all(math.isfinite(point.value) for point in points)
    return f"{'not finite' if not finite else 'whole number' if whole else 'number'}, {steps}"


def _artifacts(client: MlflowClient, run_id: str, folder: str) -> Iterator[str]:
    entries: list[FileInfo] = client.list_artifacts(run_id, folder or None)
    for entry in entries:
        if entry.is_dir:
            yield from _artifacts(client, run_id, entry.path)
        else:
            yield entry.path


def _file(path: Path, name: str, places: Mapping[str, str]) -> Any:
    """The masked content of a text file; of a picture, only that it exists."""
    return masks.content(name, path.read_text(encoding="utf-8"), places) if path.suffix in TEXTS else "<file>"


# ---- two dumps -------------------------------------------------------------------------------------------------


def fields(dumped: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every field of a dump by its path; a list is one field."""
    if not isinstance(dumped, dict):
        return {path: dumped}
    inner: dict[tuple[str, ...], Any] = {}
    for name, value in dumped.items():
        inner |= fields(value, (*path, name))
    return inner or {path: {}}


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """A line for each field that differs, or several for a text."""
    first, second = fields(before), fields(after)
    lines: list[str] = []
    for path in sorted(first.keys() | second.keys()):
        if path not in second:
            lines.append(f"only before: {' / '.join(path)} = {_short(first[path])}")
        elif path not in first:
            lines.append(f"only after:  {' / '.join(path)} = {_short(second[path])}")
        elif first[path] != second[path]:
            lines.append(f"differs:     {' / '.join(path)}\n{_change(first[path], second[path])}")
    return lines


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _change(before: Any, after: Any) -> str:
    if not (isinstance(before, list) and isinstance(after, list)):
        return f"    - {before}\n    + {after}"
    changed = difflib.unified_diff([str(line) for line in before], [str(line) for line in after], lineterm="", n=0)
    return "\n".join(f"    {line}" for line in list(changed)[2:] if not line.startswith("@@"))


def counts(dumped: Mapping[str, Any]) -> tuple[int, int, int]:
    """The numbers of fields, runs and files of a dump."""
    runs = dumped["runs"]
    return len(fields(dumped)), len(runs), len(dumped["report"]) + sum(len(run["artifacts"]) for run in runs.values())

"""The changes of a run in MLflow as plain values, which can be kept in a file and sent later.

Doing an operation again changes nothing: points keep their time, a file replaces itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

PARAMS, TAGS, UNTAG, METRICS, DATASET, FILE, END = "params", "tags", "untag", "metrics", "dataset", "file", "end"
BATCH, PARAM_BATCH = 900, 90  # entries of one log_batch; MLflow allows 1,000, and 100 params
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS")  # codes that stay the same


@dataclass(frozen=True)
class Operation:
    """One change of a run.

    Attributes:
        kind: one of the names above.
        values: what JSON can represent. Pairs of params; tags by name; names of tags; points of metrics as (name, value, time in
            ms, step); the fields of a dataset; ``{"under": folder of the artifacts}``; ``{"status": …, "ms": end time}``.
        file: the artifact of `FILE`.
    """

    kind: str
    values: Any
    file: Path | None = None


def file_operations(folder: Path, under: str | None) -> list[Operation]:
    """The operations that log every file of a folder."""
    operations = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        parts = [*([under] if under else []), *path.relative_to(folder).parent.parts]
        operations.append(Operation(FILE, {"under": "/".join(parts)}, path))
    return operations


def perform(client: MlflowClient, run_id: str, operation: Operation) -> None:
    """Does one change.

    Raises:
        Exception: whatever MLflow, its database or the network raises. See `is_refused`.
    """
    values = operation.values
    match operation.kind:
        case "params":
            params = [Param(key, value) for key, value in values]
            for start in range(0, len(params), PARAM_BATCH):
                client.log_batch(run_id, params=params[start : start + PARAM_BATCH])
        case "tags":
            client.log_batch(run_id, tags=[RunTag(key, value) for key, value in values.items()])
        case "untag":
            for name in values:
                _remove_tag(client, run_id, name)
        case "metrics":
            client.log_batch(run_id, metrics=[Metric(*point) for point in values])
        case "dataset":
            tags = [InputTag("mlflow.data.context", "training")]
            client.log_inputs(run_id, [DatasetInput(Dataset(**values), tags)])
        case "file":
            assert operation.file is not None
            if (
                operation.file.exists()
            ):  # otherwise it was sent, and the process was killed before it removed the operation
                client.log_artifact(run_id, str(operation.file), values["under"] or None)
        case "end":
            client.set_terminated(run_id, values["status"], end_time=values["ms"])
        case unknown:
            raise ValueError(f"there is no operation {unknown}")


def is_refused(error: Exception) -> bool:
    """Whether the server understood an operation and will not accept it, so that others may be sent before it."""
    return isinstance(error, MlflowException) and error.error_code in REFUSALS


def as_json(operation: Operation) -> str:
    """The operation without its file."""
    return json.dumps({"kind": operation.kind, "values": operation.values})


def _remove_tag(client: MlflowClient, run_id: str, name: str) -> None:
    try:
        client.delete_tag(run_id, name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # removed by an earlier attempt
            raise

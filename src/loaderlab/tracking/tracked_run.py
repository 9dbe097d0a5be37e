"""One run in MLflow while it goes on. Metrics are kept in memory and written between epochs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import mlflow.data.meta_dataset
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from loaderlab.data.spec import DataSpec
from loaderlab.metrics import TABLE
from loaderlab.system.files import encodable

BATCH = 900  # entries of one log_batch; MLflow admits 1,000
MAX_TAG, MAX_PARAM = 5000, 6000  # characters


class OpenStore(Protocol):
    """What a run needs of its store."""

    client: MlflowClient

    def guarded(self) -> AbstractContextManager[None]:
        """Turns what MLflow, SQLAlchemy and the disk raise into one message."""


class TrackedRun:
    """One MLflow run. As a context manager it ends FINISHED, KILLED on Ctrl-C and SIGTERM, or FAILED."""

    def __init__(self, store: OpenStore, run_id: str) -> None:
        self._store, self.run_id = store, run_id
        self._buffer: list[Metric] = []
        self.status = "RUNNING"

    def params(self, params: Iterable[tuple[str, Any]]) -> None:
        entries = [
            Param(key, ("null" if value is None else encodable(str(value)))[:MAX_PARAM]) for key, value in params
        ]
        with self._store.guarded():
            for start in range(0, len(entries), 90):
                self._store.client.log_batch(self.run_id, params=entries[start : start + 90])

    def tags(self, tags: dict[str, str]) -> None:
        with self._store.guarded():
            self._store.client.log_batch(
                self.run_id, tags=[RunTag(key, value) for key, value in short_tags(tags).items()]
            )

    def metric(self, name: str, value: float, step: int) -> None:
        """Keeps a point for the next `flush`; what is not finite is not a measurement and is left out."""
        assert name in TABLE, name  # a metric that nobody defined
        if math.isfinite(value):
            self._buffer.append(Metric(name, float(value), int(time.time() * 1000), step))

    def flush(self) -> None:
        """Writes what was kept; about 70 ms a thousand points, so never inside a measured window."""
        with self._store.guarded():
            while self._buffer:
                self._store.client.log_batch(self.run_id, metrics=self._buffer[:BATCH])
                del self._buffer[:BATCH]

    def dataset(self, spec: DataSpec) -> None:
        """Logs the samples as the run's input."""
        count = "as in data.samples" if spec.train.num_claimed else str(spec.train.num_samples)
        source = CodeDatasetSource(tags={"location": spec.location, "train_samples": count})
        entry = mlflow.data.meta_dataset.MetaDataset(source, name=spec.name, digest=spec.digest[:36])  # type: ignore[abstract]
        with self._store.guarded():
            self._store.client.log_inputs(
                self.run_id,
                [DatasetInput(Dataset(**entry.to_dict()), [InputTag("mlflow.data.context", "training")])],
            )

    def artifacts(self, folder: Path, under: str | None = None) -> None:
        """Logs every file of a folder, in a folder of the run's artifacts if one is named."""
        with self._store.guarded():
            self._store.client.log_artifacts(self.run_id, str(folder), under)

    def end(self, status: str) -> None:
        with self._store.guarded():
            self.flush()
            self._store.client.set_terminated(self.run_id, status)
            self.status = status

    def __enter__(self) -> TrackedRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        if kind is None:
            self.end("FINISHED")
        else:
            self.end("KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED")


def short_tags(tags: dict[str, str]) -> dict[str, str]:
    """Tags cut to the length that MLflow takes, and in UTF-8, as its tables are."""
    return {key: encodable(value)[:MAX_TAG] for key, value in tags.items()}

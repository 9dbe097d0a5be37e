"""One run in MLflow while it trains. Metrics stay in memory and are written between epochs."""

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

BATCH = 900  # entries of one log_batch; MLflow allows 1,000
MAX_TAG, MAX_PARAM = 5000, 6000  # characters


class OpenStore(Protocol):
    """The part of a store that a run uses."""

    client: MlflowClient

    def guarded(self) -> AbstractContextManager[None]:
        """Turns errors of MLflow, SQLAlchemy and the disk into one message."""


class TrackedRun:
    """One MLflow run. As a context manager it ends as FINISHED, as KILLED after Ctrl-C or SIGTERM, or as FAILED."""

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

    def remove_tags(self, names: Iterable[str]) -> None:
        """Removes tags that the run has."""
        with self._store.guarded():
            for name in names:
                self._store.client.delete_tag(self.run_id, name)

    def metric(self, name: str, value: float, step: int) -> None:
        """Stores a point until the next `flush`. NaN and infinity are no measurements and are left out."""
        assert name in TABLE, name  # the metric is not in the registry
        if math.isfinite(value):
            self._buffer.append(Metric(name, float(value), int(time.time() * 1000), step))

    def flush(self) -> None:
        """Writes the stored points. A thousand points take about 70 ms, so never call this in a measured window."""
        with self._store.guarded():
            while self._buffer:
                self._store.client.log_batch(self.run_id, metrics=self._buffer[:BATCH])
                del self._buffer[:BATCH]

    def dataset(self, spec: DataSpec) -> None:
        """Logs the data as the run's input."""
        count = "as in data.samples" if spec.train.num_claimed else str(spec.train.num_samples)
        source = CodeDatasetSource(tags={"location": spec.location, "train_samples": count})
        entry = mlflow.data.meta_dataset.MetaDataset(source, name=spec.name, digest=spec.digest[:36])  # type: ignore[abstract]
        with self._store.guarded():
            self._store.client.log_inputs(
                self.run_id,
                [DatasetInput(Dataset(**entry.to_dict()), [InputTag("mlflow.data.context", "training")])],
            )

    def artifacts(self, folder: Path, under: str | None = None) -> None:
        """Logs every file of a folder, into the folder ``under`` of the run's artifacts if given."""
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
    """The tags, cut to the length that MLflow accepts, with text that UTF-8 can encode."""
    return {key: encodable(value)[:MAX_TAG] for key, value in tags.items()}

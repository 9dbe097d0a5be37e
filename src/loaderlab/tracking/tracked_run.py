"""One run in MLflow while it trains. Metrics stay in memory and are written between epochs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import mlflow.data.meta_dataset
from mlflow.data.code_dataset_source import CodeDatasetSource

from loaderlab.data.spec import DataSpec
from loaderlab.metrics import is_defined
from loaderlab.system.files import encodable
from loaderlab.tracking import operations
from loaderlab.tracking.operations import BATCH, Operation
from loaderlab.tracking.uri import without_password

MAX_TAG, MAX_PARAM = 5000, 6000  # characters


class Writer(Protocol):
    """Where the operations of a run go: directly into its store, or through the outbox of a tracking server."""

    def write(self, operations: Sequence[Operation]) -> None:
        """Does the operations in order, or keeps them for later."""

    def finish(self) -> None:
        """Waits for operations that were kept, after the last one."""

    def guarded(self) -> AbstractContextManager[None]:
        """Turns errors of MLflow, SQLAlchemy and the disk into one message."""


class TrackedRun:
    """One MLflow run. As a context manager it ends as FINISHED, as KILLED after Ctrl-C or SIGTERM, or as FAILED."""

    def __init__(self, writer: Writer, run_id: str) -> None:
        self._writer, self.run_id = writer, run_id
        self._buffer: list[tuple[str, float, int, int]] = []
        self.status = "RUNNING"

    def params(self, params: Iterable[tuple[str, Any]]) -> None:
        texts = [(key, "null" if value is None else encodable(without_password(str(value)))) for key, value in params]
        self._write(operations.PARAMS, [(key, text[:MAX_PARAM]) for key, text in texts])

    def tags(self, tags: dict[str, str]) -> None:
        self._write(operations.TAGS, short_tags(tags))

    def remove_tags(self, names: Iterable[str]) -> None:
        """Removes tags that the run has."""
        self._write(operations.UNTAG, sorted(names))

    def metric(self, name: str, value: float, step: int) -> None:
        """Stores a point until the next `flush`. NaN and infinity are no measurements and are left out."""
        assert is_defined(name), name  # the metric is not in the registry
        if math.isfinite(value):
            self._buffer.append((name, float(value), int(time.time() * 1000), step))

    def flush(self) -> None:
        """Writes the stored points. A thousand points take about 70 ms, so never call this in a measured window."""
        with self._writer.guarded():
            while self._buffer:
                self._write(operations.METRICS, self._buffer[:BATCH])
                del self._buffer[:BATCH]

    def dataset(self, spec: DataSpec) -> None:
        """Logs the data as the run's input."""
        count = "as in data.samples" if spec.train.num_claimed else str(spec.train.num_samples)
        source = CodeDatasetSource(tags={"location": spec.location, "train_samples": count})
        entry = mlflow.data.meta_dataset.MetaDataset(source, name=spec.name, digest=spec.digest[:36])  # type: ignore[abstract]
        self._write(operations.DATASET, dict(entry.to_dict()))

    def artifacts(self, folder: Path, under: str | None = None) -> None:
        """Logs every file of a folder, into the folder ``under`` of the run's artifacts if given."""
        with self._writer.guarded():
            self._writer.write(operations.file_operations(folder, under))

    def end(self, status: str) -> None:
        with self._writer.guarded():
            self.flush()
            self._write(operations.END, {"status": status, "ms": int(time.time() * 1000)})
            self.status = status
        self._writer.finish()

    def _write(self, kind: str, values: Any) -> None:
        if values:
            with self._writer.guarded():
                self._writer.write([Operation(kind, values)])

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

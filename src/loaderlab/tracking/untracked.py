"""The record of a rank that records nothing: rank 0 records the whole job. Does not import MLflow."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from loaderlab.data.spec import DataSpec


class Untracked:
    """Has the methods of `loaderlab.tracking.tracked_run.TrackedRun`, which do nothing here."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.status = "RUNNING"

    def params(self, params: Iterable[tuple[str, Any]]) -> None: ...

    def tags(self, tags: dict[str, str]) -> None: ...

    def metric(self, name: str, value: float, step: int) -> None: ...

    def flush(self) -> None: ...

    def dataset(self, spec: DataSpec) -> None: ...

    def artifacts(self, folder: Path, under: str | None = None) -> None: ...

    def __enter__(self) -> Untracked:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        if kind is None:
            self.status = "FINISHED"
        else:
            self.status = "KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED"

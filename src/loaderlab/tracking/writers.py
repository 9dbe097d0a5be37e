"""The two ways in which a run's operations reach its store: directly, or through the outbox of a tracking server."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from loaderlab.tracking.operations import Operation
from loaderlab.tracking.outbox import Outbox


class OpenStore(Protocol):
    """The part of a store that a run uses."""

    def guarded(self) -> AbstractContextManager[None]:
        """Turns errors of MLflow, SQLAlchemy and the disk into one message."""

    def send(self, run_id: str, operation: Operation) -> None:
        """Does one change of a run."""


@dataclass(frozen=True)
class Direct:
    """Writes a run directly into its store: an error is the run's error."""

    store: OpenStore
    run_id: str

    def write(self, operations: Sequence[Operation]) -> None:
        for operation in operations:
            self.store.send(self.run_id, operation)

    def finish(self) -> None:
        """Returns at once: nothing was kept."""

    def guarded(self) -> AbstractContextManager[None]:
        return self.store.guarded()


@dataclass(frozen=True)
class Mailed:
    """Writes a run through an outbox: what the server does not accept is kept on disk."""

    store: OpenStore
    outbox: Outbox

    def write(self, operations: Sequence[Operation]) -> None:
        self.outbox.write(operations)

    def finish(self) -> None:
        self.outbox.finish()

    def guarded(self) -> AbstractContextManager[None]:
        return self.store.guarded()


def say(text: str) -> None:
    """Prints a line about the tracking server on stderr."""
    print(text, file=sys.stderr, flush=True)

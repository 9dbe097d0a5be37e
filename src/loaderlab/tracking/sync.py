"""Sends what runs could not send to their tracking server: see `loaderlab.tracking.spool`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from loaderlab.config import TrackingConfig, UserError
from loaderlab.tracking import open_store
from loaderlab.tracking.operations import END, Operation
from loaderlab.tracking.outbox import send_pending
from loaderlab.tracking.spool import Address, Spool, spools
from loaderlab.tracking.store import PROCESS_KILLED, Store
from loaderlab.tracking.uri import without_password

LOCK_S = 30.0  # for another process to complete what it sends


@dataclass(frozen=True)
class Synced:
    """What became of the records of one run.

    Attributes:
        num_sent: by this process; another one may have sent some too.
        problem: why records are left; empty if none is.
    """

    run_id: str
    address: Address
    num_sent: int
    num_left: int
    problem: str

    def __str__(self) -> str:
        where = f"{self.address.name} ({self.run_id}) to {without_password(self.address.uri)}"
        sent = f"sent {self.num_sent} records of {where}"
        return f"{sent}; {self.num_left} are left: {self.problem}" if self.num_left else sent


def sync(folder: Path) -> Iterator[Synced]:
    """The result of each run that has records in the folder of all spools, after sending them in order."""
    stores = _Stores()
    for spool in spools(folder):
        pending = spool.pending()
        if not pending:
            spool.remove_remains()
            continue
        try:
            address, _ = pending[0].read()
        except FileNotFoundError:  # sent by another process in between
            continue
        yield _sync_run(spool, address, stores)


class _Stores:
    """The store of each address, opened once."""

    def __init__(self) -> None:
        self._opened: dict[tuple[str, str], Store | UserError] = {}

    def store(self, address: Address) -> Store:
        """Raises:
        UserError: the server cannot be reached, or has no such experiment.
        """
        key = (address.uri, address.experiment)
        if key not in self._opened:
            try:
                self._opened[key] = open_store(TrackingConfig(*key), Path.cwd(), create=False)
            except UserError as error:
                self._opened[key] = error
        opened = self._opened[key]
        if isinstance(opened, UserError):
            raise opened
        return opened


def _sync_run(spool: Spool, address: Address, stores: _Stores) -> Synced:
    try:
        store = stores.store(address)
    except UserError as error:
        return Synced(spool.run_id, address, 0, len(spool.pending()), f"{error}")

    def send(operation: Operation) -> None:
        store.send(spool.run_id, operation)
        if operation.kind == END:
            store.clear_error(spool.run_id, PROCESS_KILLED)

    with spool.locked(_after(LOCK_S)) as is_locked:
        if not is_locked:
            return Synced(spool.run_id, address, 0, len(spool.pending()), "another process is sending them")
        sent = send_pending(spool, send, lambda: False)
        return Synced(spool.run_id, address, sent.num_sent, sent.num_left, sent.problem)


def _after(seconds: float) -> Callable[[], bool]:
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() >= deadline

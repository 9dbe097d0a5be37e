"""The outbox of a run on a tracking server: its operations go through the spool, and a call waits for the server for at most a second.

A thread sends them while a call waits, which is never in a measured window. It is not left to work during the training, because
it would take the interpreter from the steps that are being measured; only a request that has begun is completed there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loaderlab.system.causes import reason
from loaderlab.system.program import command
from loaderlab.tracking.operations import Operation, is_refused
from loaderlab.tracking.spool import Address, Spool, Stored
from loaderlab.tracking.uri import without_password

WAIT_S = 1.0  # of a call, for the server
PAUSE_S = 10.0  # after a failure, calls do not try to send for so long
PATIENCE_S = 20.0  # at the end of a run, without a success
RETRY_S = 1.0  # between two attempts at the end of a run
Send = Callable[[Operation], None]


class Outbox:
    """Sends the operations of one run in order, and keeps on disk what cannot be sent.

    Args:
        send: sends one operation; any exception means that it was not accepted.
        say: prints a line for the user.
    """

    def __init__(self, spool: Spool, address: Address, send: Send, say: Callable[[str], None]) -> None:
        self._spool, self._address, self._send, self._say = spool, address, send, say
        self._where = without_password(address.uri)
        self._sender: threading.Thread | None = None
        self._stop = threading.Event()
        self._paused_until = self._succeeded_at = 0.0
        self._problem = ""
        self._was_reported = False

    def write(self, operations: Sequence[Operation]) -> None:
        """Keeps operations on disk, and sends them if the server accepts them within a second.

        Raises:
            OSError: they cannot be written to the disk.
        """
        for operation in operations:
            self._spool.add(self._address, operation.kind, operation.values, operation.file)
        if time.monotonic() < self._paused_until or self._drain(WAIT_S):
            return
        self._paused_until = time.monotonic() + PAUSE_S
        if not self._was_reported:
            self._was_reported = True
            why = self._problem or f"no answer within {WAIT_S:g} s"
            self._say(
                f"warning: {self._where} did not accept what this run recorded ({why}). It is kept in {self._spool.folder} "
                "and sent again later"
            )

    def finish(self) -> None:
        """Sends what is left, until the server has accepted nothing for `PATIENCE_S`; then says how to send the rest."""
        started, is_announced = time.monotonic(), False
        try:
            while not self._drain(WAIT_S):
                if time.monotonic() - max(started, self._succeeded_at) > PATIENCE_S:
                    break
                if not is_announced:
                    is_announced = True
                    left = len(self._spool.pending())
                    self._say(f"sending {left} records to {self._where}, for {PATIENCE_S:g} s after the last success")
                if not self._is_sending():
                    time.sleep(RETRY_S)
        finally:
            if left := len(self._spool.pending()):
                why = f" ({self._problem})" if self._problem else ""
                self._say(
                    f"warning: {left} records of run {self._spool.run_id} were not accepted by {self._where}{why}. They are kept "
                    f"in {self._spool.folder}. To send them, type: {command('sync')}"
                )

    def _is_sending(self) -> bool:
        return self._sender is not None and self._sender.is_alive()

    def _drain(self, wait_s: float) -> bool:
        """Whether everything was sent after at most ``wait_s``."""
        deadline = time.monotonic() + wait_s
        self._stop.clear()
        if self._sender is None or not self._sender.is_alive():
            self._sender = threading.Thread(target=self._send_all, name="outbox", daemon=True)
            self._sender.start()
        self._sender.join(max(0.0, deadline - time.monotonic()))
        self._stop.set()  # only the request that has begun is completed
        return not self._spool.pending()

    def _send_all(self) -> None:
        with self._spool.locked(self._stop.is_set) as is_locked:
            if is_locked:
                self._problem = send_pending(self._spool, self._attempt, self._stop.is_set).problem

    def _attempt(self, operation: Operation) -> None:
        self._send(operation)
        self._succeeded_at = time.monotonic()


@dataclass(frozen=True)
class Sent:
    """What became of the operations of a spool.

    Attributes:
        problem: the last error; empty if everything was accepted.
        num_left: the operations that were not accepted.
    """

    num_sent: int
    num_left: int
    problem: str


def send_pending(spool: Spool, send: Send, stop: Callable[[], bool]) -> Sent:
    """Sends operations in order until none is left, until one cannot be sent, or until ``stop``; the spool must be locked.

    An operation that the server refuses stays, and the next ones are sent.
    """
    num_sent, problem, refused = 0, "", set[Stored]()
    while entries := [entry for entry in spool.pending() if entry not in refused]:
        for entry in entries:
            if stop():
                return Sent(num_sent, len(spool.pending()), problem)
            try:
                _, values = entry.read()
                send(Operation(entry.kind, values, entry.artifact))
            except Exception as error:
                problem = reason(error)
                if not is_refused(error):
                    return Sent(num_sent, len(spool.pending()), problem)
                refused.add(entry)
            else:
                entry.remove()
                num_sent += 1
                spool.remove_if_empty()
    return Sent(num_sent, len(refused), problem)

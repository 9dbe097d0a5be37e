"""The process that records a watched program in MLflow, as the program sees it: start, end, and what became of the run.

Importing MLflow takes 3 s, and its threads, its environment variables and its current run would disturb a program that uses MLflow
itself. A process of its own also survives a SIGKILL of the program. It is no child of the program, which might wait for all its
children; `loaderlab.attach.recording` is its code. This file needs only the standard library.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from loaderlab.attach.launching import launched, send
from loaderlab.config import TrackingConfig, UserError, store_root
from loaderlab.system.causes import described, reason
from loaderlab.system.extras import require
from loaderlab.tracking.precheck import refuse_unusable
from loaderlab.tracking.uri import store_uri

WAIT_S = 60.0  # at the end of the program, for the recording process
RANKS_FILE = (
    "ranks.json"  # next to the rows: the results of all ranks of the job, which the first one writes at its end
)
SILENT_S = 3.0  # of these, before a line says what is waited for


@dataclass(frozen=True)
class Order:
    """What to record; the first message to the recording process.

    Attributes:
        name: of the run.
        uri: of the store, already resolved.
        rows_file: see `RecordingProcess.start`.
        script, command: tags of the run.
        pid: of the program.
    """

    name: str
    uri: str
    experiment: str
    rows_file: str
    script: str
    command: str
    pid: int


@dataclass(frozen=True)
class Ending:
    """How a program ended; the second message, which is missing if the program was killed.

    Attributes:
        exit_code: of the program.
        error: in one line; empty if there is nothing to say besides the exit code.
        interrupted: by Ctrl-C, or by SIGTERM if that is handled like it.
    """

    exit_code: int
    error: str = ""
    interrupted: bool = False


def ending_of(error: BaseException | None) -> Ending:
    """How a program ends that raised ``error``; None: it reached its end."""
    match error:
        case None:
            return Ending(0)
        case SystemExit(code=None):
            return Ending(0)
        case SystemExit(code=int(code)):
            return Ending(code & 0xFF)
        case SystemExit():
            return Ending(1, f"exit code 1: {reason(error)}")
        case KeyboardInterrupt():
            from loaderlab.system.processes import error_line  # imports psutil

            return Ending(int(getattr(error, "exit_code", 130)), error_line(error), interrupted=True)
    return Ending(1, described(error))


class RecordingProcess:
    """The recording process of this program.

    The program reports its end through a socket. If it is killed, the kernel closes the socket; the recording process also watches
    the program's pid, because a process that the program started without Python may keep a copy of the socket open.
    """

    def __init__(self, connection: socket.socket, log: Path) -> None:
        self._connection: socket.socket | None = connection
        self._log, self._pid, self._announced = log, os.getpid(), False
        self._identity = _identity(connection.fileno())
        os.register_at_fork(after_in_child=self._forget)

    @classmethod
    def start(
        cls,
        name: str,
        uri: str,
        experiment: str,
        rows_file: Path,
        *,
        script: str = "",
        command: Sequence[str] = (),
    ) -> RecordingProcess:
        """Starts it, which takes some milliseconds. The run is created 3 s later.

        Args:
            name: of the run.
            uri, experiment: as in `loaderlab.watch`.
            rows_file: the recorder writes it, see `loaderlab.attach.events`. It is removed when it was recorded, and so is
                its folder if it has no other file.
            script, command: tags of the run.

        Raises:
            UserError: MLflow is not installed, or the store or the experiment cannot be used.
        """
        require("loaderlab watch --record", "mlflow", "matplotlib", "filelock")
        if not name.strip():
            raise UserError("--record: the run needs a name. Type for example: --record baseline")
        uri = store_uri(TrackingConfig(uri, experiment), store_root())
        refuse_unusable(uri, experiment)
        log = rows_file.with_name(f"{rows_file.name}.log")
        order = Order(name, uri, experiment, str(rows_file), script, shlex.join(command), os.getpid())
        try:
            connection = launched(log, asdict(order))
        except OSError as error:
            raise UserError(f"--record: the recording process cannot be started: {reason(error)}") from error
        return cls(connection, log)

    def announce(self, ending: Ending) -> None:
        """Reports how the program ends, without waiting; only the first call counts. For `os._exit`, and part of `finish`."""
        if (connection := self._usable()) is not None and not self._announced:
            self._announced = True
            with suppress(OSError):  # the recording process has ended
                send(connection, asdict(ending))
                connection.shutdown(socket.SHUT_WR)

    def finish(self, ending: Ending) -> bool:
        """Reports how the program ended, waits until the run is recorded, and says on stderr where it is, or why it is not.

        In a forked child it does nothing.

        Returns:
            Whether the run was recorded.
        """
        if self._connection is None or os.getpid() != self._pid:
            return False
        self.announce(ending)
        connection = self._usable()
        if connection is None:
            _say(f"not recorded: the program closed the connection to the recording process; see {self._log}")
            return False
        try:
            answer = _answer(connection)
        except KeyboardInterrupt:
            _say("the run is still being recorded, and this program does not wait for it any more")
            return False
        finally:
            self._forget()
        recorded, text = _read(answer)
        _say(text or f"not recorded: the recording process ended without an answer; see {self._log}")
        return recorded

    def _usable(self) -> socket.socket | None:
        """The connection, unless this is a child, or the program has closed it or even given its number to another file."""
        if self._connection is None or os.getpid() != self._pid:
            return None
        if _identity(self._connection.fileno()) != self._identity:
            self._connection.detach()
            self._connection = None
        return self._connection

    def _forget(self) -> None:
        """Closes the connection of this process only."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if _identity(connection.fileno()) == self._identity:
            connection.close()
        else:
            connection.detach()


def _identity(descriptor: int) -> tuple[int, int] | None:
    """Which file a descriptor belongs to; None if it is closed."""
    try:
        facts = os.fstat(descriptor)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def _answer(connection: socket.socket) -> bytes:
    """What the recording process answers; empty if it ended without an answer, or after `WAIT_S`."""
    received, end, silent = b"", time.monotonic() + WAIT_S, True
    connection.settimeout(SILENT_S)
    while time.monotonic() < end:
        try:
            part = connection.recv(65536)
        except TimeoutError:
            if silent:
                _say(f"recording the run in MLflow (at most {WAIT_S:.0f} s) …")
            silent = False
            connection.settimeout(max(0.1, end - time.monotonic()))
            continue
        except OSError:
            break
        if not part:
            break
        received += part
    return received


def _read(answer: bytes) -> tuple[bool, str]:
    """Whether the run was recorded, and the text about it; an empty text if the answer is incomplete."""
    try:
        message = json.loads(answer)
        return bool(message["recorded"]), str(message["text"])
    except (ValueError, KeyError, TypeError):
        return False, ""


def _say(text: str) -> None:
    """Prints on stderr, which may be closed or replaced."""
    with suppress(OSError, ValueError, AttributeError):
        print(text, file=sys.stderr, flush=True)

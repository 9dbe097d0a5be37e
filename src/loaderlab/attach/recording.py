"""The recording process: reads the rows of a watched program, judges them every 30 s and at the end, and owns the MLflow run.

While the program runs, it computes at most a fifth of the time on one core. It ignores the signals that end programs: it ends by
itself, at most `LIMIT_S` after the program.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from loaderlab.attach.events import PROFILE_FILE
from loaderlab.attach.sidecar import RANKS_FILE, Ending, Order
from loaderlab.config import UserError
from loaderlab.system.causes import described
from loaderlab.system.job_process import process_handle
from loaderlab.system.processes import importing, process_identity

if TYPE_CHECKING:
    from loaderlab.attach.run_record import RunRecording

FIRST_S, EVERY_S = 20.0, 30.0  # from the start to the first update of the run, and between two updates
SHARE = 5  # an update that takes longer than usual is followed by a pause of so many times its length
LIMIT_S = 57.0  # the program waits for 60 s
RETRY_S = 1.0  # between two attempts to write into a store that another process has locked
POLL_S = 1.0  # between two looks at a process of which the kernel does not report the end
REPLACED = "replaced by another program (os.exec), or it closed all its files: recorded up to the last flush"
NICE = 5  # a third of the weight of the program's processes
BURST_S, PAUSE_S = 0.02, 0.08  # CPU time between two pauses while the program runs, and the length of a pause


class WatchedProgram:
    """The program, seen from the recording process.

    Attributes:
        ended: set at its end.
        ending: how it ended; None if it did not report that.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._received = connection, b""
        while b"\n" not in self._received:
            if not (part := connection.recv(65536)):
                raise EOFError("the program ended before it said what to record")
            self._received += part
        line, _, self._received = self._received.partition(b"\n")
        self.order = Order(**json.loads(line))
        self.ending: Ending | None = None
        self.ended = threading.Event()
        self._identity = process_identity(self.order.pid)
        self._handle = process_handle(self.order.pid)
        threading.Thread(target=self._watch, name="program-watch", daemon=True).start()

    def answer(self, text: str, *, recorded: bool) -> None:
        """Sends the result to the program, if it still waits for it."""
        with suppress(OSError):
            self._connection.setblocking(True)
            self._connection.sendall(json.dumps({"recorded": recorded, "text": text}).encode())
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the kernel's handle on the program."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _watch(self) -> None:
        while b"\n" not in self._received and self._receives() and self._runs():
            pass
        self._connection.setblocking(False)  # the last message may have been sent just before the end
        while b"\n" not in self._received and self._receive():
            pass
        if b"\n" in self._received:
            self.ending = Ending(**json.loads(self._received.partition(b"\n")[0]))
        elif self._stays():
            self.ending = Ending(1, REPLACED)
        self.ended.set()

    def _stays(self) -> bool:
        """Whether the process still runs; the kernel closes the connection of a killed one a moment before its end."""
        if self._handle is not None:
            return not wait([self._handle], POLL_S)
        time.sleep(POLL_S)
        return self._runs()

    def _receives(self) -> bool:
        """Waits for the next message or the end; returns whether the connection is open."""
        handles: list[socket.socket | int] = [self._connection, *([] if self._handle is None else [self._handle])]
        ready = wait(handles, POLL_S if self._handle is None else None)
        return self._receive() if self._connection in ready else not ready

    def _receive(self) -> bool:
        """Adds what has been sent; returns whether there was anything."""
        try:
            part = self._connection.recv(65536)
        except OSError:  # nothing more, or closed by the program while it had not read everything
            return False
        self._received += part
        return bool(part)

    def _runs(self) -> bool:
        """Without a handle: whether the process still runs. With a handle, `_receives` waits for its end."""
        return self._handle is not None or process_identity(self.order.pid) == self._identity


def main() -> NoReturn:
    """Records one program; the arguments are the descriptor of the connection, and the folder of this package."""
    _stay_in_background()
    program = WatchedProgram(socket.socket(fileno=int(sys.argv[1])))
    threading.Thread(target=_end_in_time, args=(program,), name="limit", daemon=True).start()
    pause_while_running(program.ended)
    try:
        with importing():  # after it watches the program, since this takes seconds
            from loaderlab.attach.run_record import RunRecording
            from loaderlab.report import run_page, step_picture  # noqa: F401  # not at the end, when the program waits
        program.answer(recorded(program, RunRecording(program.order)), recorded=True)
        _clean_up(Path(program.order.rows_file))
        code = 0
    except UserError as error:
        code = _not_recorded(program, in_options(f"{error}"))
    except BaseException as error:
        traceback.print_exc()
        code = _not_recorded(program, described(error))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the shutdown with torch and mlflow takes 2 to 3 s


def recorded(program: WatchedProgram, run: RunRecording) -> str:
    """Records the program until its end; returns where its run is.

    Raises:
        UserError: the run cannot be recorded.
    """
    with importing():
        attempt(run.begun)
    pause_s = FIRST_S
    while not program.ended.wait(pause_s):
        started = time.monotonic()
        attempt(run.update)
        pause_s = max(EVERY_S, SHARE * (time.monotonic() - started))
    while True:
        try:
            return run.finish(program.ending)
        except UserError as error:
            if "locked" not in f"{error}":
                raise
            traceback.print_exc()
            time.sleep(RETRY_S)  # `_end_in_time` ends this


def attempt(work: Callable[[], object]) -> None:
    """Does work that will be tried again: a failure, such as a locked store, is only written to the log."""
    try:
        work()
    except Exception:
        traceback.print_exc()


def _stay_in_background() -> None:
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICE)


def pause_while_running(ended: threading.Event) -> None:
    """From now on until the program has ended, this process pauses each time it has computed for `BURST_S`.

    A low priority would not do: nobody but root can raise it again, and a busy machine would then delay the end by a minute.
    Also, it has no effect where the kernel gives each session its share, as on most desktops.
    """

    def pause(number: int, frame: FrameType | None) -> None:
        if not ended.is_set():  # not `ended.wait`: the main thread may have its lock
            time.sleep(PAUSE_S)

    signal.signal(signal.SIGPROF, pause)
    signal.siginterrupt(signal.SIGPROF, False)
    signal.setitimer(signal.ITIMER_PROF, BURST_S, BURST_S)


def _end_in_time(program: WatchedProgram) -> NoReturn:
    """Ends this process `LIMIT_S` after the program, whatever it waits for."""
    program.ended.wait()
    time.sleep(LIMIT_S)
    os._exit(_not_recorded(program, f"the run could not be written within {LIMIT_S:.0f} s: the store may be locked"))


def _not_recorded(program: WatchedProgram, reason: str) -> int:
    """The exit code 1, after answering why there is no run, and where the measurements are."""
    rows = program.order.rows_file
    text = f"not recorded: {reason}. What was measured is in {rows}, and the messages in {rows}.log"
    print(text, file=sys.stderr, flush=True)
    program.answer(text, recorded=False)
    return 1


def in_options(message: str) -> str:
    """A message about settings of a run as one about options of ``loaderlab watch``."""
    return message.replace("tracking.uri=", "--uri=").replace("tracking.experiment=", "--experiment=")


def _clean_up(rows_file: Path) -> None:
    """Removes the rows, the messages and their folder, unless that has other files."""
    with suppress(OSError):
        for name in (rows_file.name, f"{rows_file.name}.log", RANKS_FILE, PROFILE_FILE):
            rows_file.with_name(name).unlink(missing_ok=True)
        rows_file.parent.rmdir()

"""What happens when a watched program ends: the verdict on stderr, the files, the record, the gate. Does not import torch.

An error in this part never changes how the program ends.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from loaderlab.attach.publish import Publisher, say
from loaderlab.attach.rank_exchange import joined
from loaderlab.attach.session import Session
from loaderlab.attach.sidecar import RANKS_FILE, Ending, RecordingProcess, ending_of
from loaderlab.attach.termination import Termination
from loaderlab.config import AUTO, ExitCode

if TYPE_CHECKING:
    from loaderlab.attach.reading import Reading


MANY_ROWS = 400_000  # from which the verdict takes some seconds


@dataclass(frozen=True)
class Outputs:
    """What to make of the result.

    Attributes:
        record: name of an MLflow run; None: no run.
        uri, experiment: of the run.
        json, html: files to write.
        profile_workers: the result also names the slow lines of the loader.
        fail_if_starved_pct: the gate: fails if the program is starved for more than this share of the time, percent.
    """

    record: str | None = None
    uri: str = AUTO
    experiment: str = "loaderlab"
    json: Path | None = None
    html: Path | None = None
    profile_workers: bool = False
    fail_if_starved_pct: float | None = None


class Watched:
    """A program that is being watched.

    Args:
        name: of the program: ``train.py``.
        rank: of this process in a job of several, from torchrun's environment.
    """

    def __init__(
        self, name: str, command: Sequence[str], max_steps: int | None, outputs: Outputs, rank: int = 0
    ) -> None:
        self._name, self._command, self._outputs, self._rank = name, command, outputs, rank
        self._publisher = Publisher(name, rank, outputs.json, outputs.html)
        self._max_steps = max_steps
        self._session: Session | None = None
        self._recording: RecordingProcess | None = None
        self._rows_file: Path | None = None
        self._pid = os.getpid()
        self._lock = threading.RLock()  # a handler of SIGTERM may need it while this thread has it
        self._ending = Ending(0)
        self._termination = Termination()
        self.gate_failed = False

    def start(self) -> None:
        """Starts the measurement, and the recording if there is one.

        Raises:
            UserError: a file cannot be written, or the run cannot be recorded.
        """
        self._publisher.checked()
        if self._outputs.record is not None and self._rank == 0:
            self._rows_file = self._start_recording(self._outputs.record)
        self._session = Session(self._max_steps, self._rows_file, profile_workers=self._outputs.profile_workers)
        self._session.start()
        self._hook_exit()

    def _start_recording(self, name: str) -> Path:
        """The file of the rows, which another process records."""
        folder = Path(tempfile.mkdtemp(prefix="loaderlab_watch_"))
        rows_file = folder / "rows.jsonl"
        rows_file.touch()
        try:
            self._recording = RecordingProcess.start(
                name,
                self._outputs.uri,
                self._outputs.experiment,
                rows_file,
                script=self._name,
                command=self._command,
            )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return rows_file

    def ended(self, error: BaseException | None) -> None:
        """The program's own code has ended. The result follows when its threads and its exit handlers have ended too, or when the
        launcher asks this rank to end because another one has failed."""
        self._ending = ending_of(error)
        if error is not None:
            self._termination.defer(lambda: self._finish(self._ending, wait=False))

    def give_up(self) -> None:
        """The program never started: there is no result."""
        session, self._session = self._session, None
        if session is not None:
            session.stop()
            session.discard()
        if self._recording is not None:
            self._recording.announce(Ending(1, "the program could not be started"))

    def _hook_exit(self) -> None:
        """Calls `_finish` after the program: behind its own exit handlers, or before ``os._exit``, which runs nothing else."""
        original = os._exit

        def _exit(status: int) -> NoReturn:
            if os.getpid() == self._pid:
                with suppress(BaseException):
                    self._finish(Ending(status & 0xFF), wait=False)
                if self.gate_failed and status == 0:
                    status = ExitCode.GATE_NOT_PASSED
            original(status)

        def finish() -> None:
            ending = self._ending
            self._finish(ending)
            if self.gate_failed and ending.exit_code == 0 and not ending.error:
                _flush()
                original(ExitCode.GATE_NOT_PASSED)  # an exit handler has no other way to set the exit code
            if (
                ending.interrupted
            ):  # the interpreter does the same, unless code was executed from text since, as imports do
                _flush()
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGINT)

        os._exit = _exit
        atexit.register(finish)

    def _finish(self, ending: Ending, *, wait: bool = True) -> None:
        """Prints the verdict, writes the files and ends the recording; only once, and not in a forked child.

        Args:
            wait: until the run is recorded.
        """
        with self._lock:
            session, self._session = self._session, None
        if session is None or os.getpid() != self._pid:
            return
        reading: Reading | None = None
        self._termination.defer()
        try:
            session.stop()
            from loaderlab.attach.rank_results import save  # imports numpy: after the script has imported what it needs

            if session.num_rows > MANY_ROWS:
                say(f"loaderlab: computing the verdict on {session.num_rows:,} events …")
            reading = joined(session.reading(), hurry=lambda: self._termination.arrived)
            self._publisher.publish(reading)
            if self._rows_file is not None and reading.ranks is not None:
                save(reading.ranks.results, self._rows_file.with_name(RANKS_FILE))
        except KeyboardInterrupt:
            say("loaderlab: interrupted before the verdict was computed")
        except Exception:
            say(
                f"loaderlab: the result could not be computed, which is a fault of loaderlab:\n{traceback.format_exc()}"
            )
        if self._recording is not None:
            self._recording.announce(ending)
        if self._rank == 0:
            self._judge_gate(reading)
        _flush()
        self._termination.release()
        if self._recording is not None and wait:
            self._recording.finish(ending)
            _flush()

    def _judge_gate(self, reading: Reading | None) -> None:
        limit = self._outputs.fail_if_starved_pct
        if limit is None:
            return
        share = None if reading is None else reading.lost_pct
        if share is None:
            self.gate_failed = True
            say("loaderlab: the gate --fail-if-starved could not be judged")
        elif share > limit:
            self.gate_failed = True
            say(
                f"loaderlab: the gate --fail-if-starved {limit:g} was not passed: {share:.1f} % of the time is lost waiting for data"
            )


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()

"""Runs the trials of a user's program: each in a fresh process, or all of them in this one."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol, TypeVar

from loaderlab.config import UserError
from loaderlab.system.causes import described, reason
from loaderlab.system.machine import available_memory
from loaderlab.system.processes import USUAL_CAUSES, killed_with_parent, signal_name
from loaderlab.tuning.first_batch import Checked, checked
from loaderlab.tuning.limits import MIB
from loaderlab.tuning.process_tree import kill_tree
from loaderlab.tuning.sending import sent_bytes
from loaderlab.tuning.trial import Measured, Trial, TrialFailed
from loaderlab.tuning.user_trial import Program, measure

TRIAL = "LOADERLAB_TRIAL"  # set in the environment of a trial's process
UNGUARDED = 75  # exit code of a trial's process whose program calls `loaderlab.tune` while it is imported
LIMIT_S = 300.0  # of a whole trial
MOST_OF_FREE = 0.5  # of the disk and of memory, that a copy of the program may use
READY, RESULT, FAILED, REFUSED = "ready", "result", "failed", "refused"
T = TypeVar("T")


class Place(Protocol):
    """Where trials run."""

    def check(self) -> Checked:
        """See `loaderlab.tuning.first_batch.checked`."""

    def measure(self, trial: Trial) -> Measured:
        """See `loaderlab.tuning.user_trial.measure`."""

    def close(self) -> None:
        """Removes what trials share."""


class CannotStart(Exception):
    """Another process cannot import the program. The text is the reason."""


class ThisProcess:
    """Trials run in this process, one after the other."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def check(self) -> Checked:
        return checked(self._program)

    def measure(self, trial: Trial) -> Measured:
        try:
            return measure(self._program, trial, own_process=False)
        except (UserError, TrialFailed):
            raise
        except Exception as error:
            raise TrialFailed(described(error)) from error

    def close(self) -> None:
        pass


class FreshProcesses:
    """Each trial has a process of its own, which gets a copy of the loader and the step.

    Raises:
        CannotStart: there is no room for a copy.
    """

    def __init__(self, program: Program) -> None:
        _refuse_large(sent_bytes(program))
        handle, name = tempfile.mkstemp(prefix="loaderlab_tune_")
        self._file = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                pickle.dump(program, file, protocol=pickle.HIGHEST_PROTOCOL)
        except OSError as error:
            self.close()
            raise CannotStart(f"a copy of the loader and the step cannot be written: {reason(error)}") from error
        except BaseException:  # Ctrl-C
            self.close()
            raise

    def check(self) -> Checked:
        """As `Place.check`.

        Raises:
            CannotStart: the process could not import the program.
        """
        return self._call(checked)

    def measure(self, trial: Trial) -> Measured:
        try:
            return self._call(_Measuring(trial))
        except CannotStart as error:
            raise TrialFailed(f"{error}") from None

    def close(self) -> None:
        self._file.unlink(missing_ok=True)

    def _call(self, work: Callable[[Program], T]) -> T:
        """The result of a function of the program, in a fresh process."""
        receiving, sending = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("spawn").Process(
            target=_work,
            args=(self._file, work, sending, multiprocessing.get_start_method()),
            name="loaderlab trial",
        )
        _start(process)
        sending.close()
        try:
            answer: T = _answer(process, receiving)
            return answer
        finally:
            receiving.close()
            if process.pid is not None:
                kill_tree(process.pid)
            process.join()


def _refuse_large(size: int) -> None:
    """Raises:
    CannotStart: a file of this size would fill the folder for temporary files, or its content the memory of a trial's process.
    """
    folder = tempfile.gettempdir()
    for free, where in ((shutil.disk_usage(folder).free, folder), (available_memory(), "memory")):
        if size > MOST_OF_FREE * free:
            raise CannotStart(
                f"a copy of the loader and the step has {size / MIB:,.0f} MiB, more than half of what is free in {where}"
            )


class _Measuring:
    """Measures a trial of a program."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial

    def __call__(self, program: Program) -> Measured:
        return measure(program, self._trial, own_process=True)


def _start(process: Any) -> None:
    """Starts a process with the mark of a trial in its environment."""
    os.environ[TRIAL] = "1"
    try:
        process.start()
    finally:
        del os.environ[TRIAL]


def _answer(process: Any, receiving: Connection) -> Any:
    """What the process sends.

    Raises:
        CannotStart: it ended before it had the program.
        TrialFailed, UserError: it failed afterwards.
    """
    started = False
    while True:
        if not wait([receiving], LIMIT_S):
            raise TrialFailed(f"it took longer than {LIMIT_S:.0f} s")
        try:
            kind, value = receiving.recv()
        except EOFError:
            process.join()
            raise _ended(process.exitcode, started) from None
        match kind:
            case "ready":
                started = True
            case "result":
                return value
            case "refused":
                raise UserError(value)
            case _:
                raise TrialFailed(value) if started else CannotStart(value)


def _ended(code: int, started: bool) -> Exception:
    """The error about a process that ended without an answer."""
    if code == UNGUARDED:
        return CannotStart(
            'the program calls loaderlab.tune outside of `if __name__ == "__main__":`, so a new process would call it again'
        )
    if code < 0:
        name = signal_name(-code)
        cause = f" ({USUAL_CAUSES[name]}?)" if name in USUAL_CAUSES else ""
        return TrialFailed(f"its process was ended by {name}{cause}")
    text = f"its process ended with exit code {code}"
    return TrialFailed(text) if started else CannotStart(f"a new process cannot import the program: {text}")


def _work(path: Path, work: Callable[[Program], Any], sending: Connection, start_method: str) -> None:
    """In the process of a trial. ``start_method``: of the program, which a spawned process does not inherit."""
    multiprocessing.set_start_method(start_method, force=True)
    killed_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one kills it
    try:
        with path.open("rb") as file:
            program = pickle.load(file)
    except Exception as error:
        sending.send((FAILED, f"a new process cannot read the loader and the step: {described(error)}"))
        return
    sending.send((READY, None))
    try:
        answer = (RESULT, work(program))
    except UserError as error:
        answer = (REFUSED, f"{error}")
    except TrialFailed as error:
        answer = (FAILED, f"{error}")
    except Exception as error:
        answer = (FAILED, described(error))
    sending.send(answer)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    sending.close()
    os._exit(0)  # the shutdown with torch takes seconds, and nothing of it is needed


def leave_if_importing() -> None:
    """Ends this process if it is that of a trial, which imports a program that calls `loaderlab.tune` at its top level."""
    if os.environ.get(TRIAL) and multiprocessing.parent_process() is not None:
        os._exit(UNGUARDED)

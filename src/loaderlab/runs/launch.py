"""Runs a job in a process of its own, waits for it and ends it at its time limit.

The run inherits nothing from the run before it (CUDA context, allocator, DALI's memory, cuDNN's choices), and a crash does
not affect the launching process. The standard library's processes are enough for a single rank: they need no rendezvous, and the
parent needs neither torch nor a polling loop.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from loaderlab.config import SPAWN, TrainConfig, UserError, WrongUsage
from loaderlab.parity.status import NOT_CHECKED
from loaderlab.runs.compared_loaders import ComparedLoader
from loaderlab.runs.job import Job, RunResult
from loaderlab.runs.job_start import JobStarter, Target, start_note
from loaderlab.system.job_process import JobProcess
from loaderlab.system.processes import (
    USUAL_CAUSES,
    end_with_parent,
    error_line,
    importing,
    signal_name,
    sigterm_raises,
    time_limit_raises,
)
from loaderlab.system.streams import add_lost, lost

GRACE_S = 2.0  # for a child that received the same Ctrl-C from the terminal to start ending by itself
RECORD_S = 60.0  # for a child to write its record
JOB_LIMIT = "sweep.job_minutes"  # the setting with the time limit of a job


def launch(
    config: TrainConfig,
    job: Job,
    starter: JobStarter,
    method: str = SPAWN,
    *,
    quietly: bool = False,
    limit: str = JOB_LIMIT,
) -> RunResult:
    """Runs a job in its own process and waits for it for at most ``sweep.job_minutes``.

    Args:
        method: how its process starts: see `loaderlab.config.SweepConfig.start`.
        quietly: it prints nothing; its warnings and its error are in the result.
        limit: the setting of the user that the time limit comes from, for the error.

    Returns:
        Its result. After a user's error, an unexpected error or a dead process, ``status`` is FAILED or KILLED and ``error``
        gives the reason.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM in this process. The child has ended by then, and its run is recorded as
            KILLED. A second one ends the child at once.
    """
    minutes = config.sweep.job_minutes
    launched = _Launch(starter, method, _child, (config, job, quietly), f"run {job.name}")
    received, reason, late = launched.wait(minutes, limit)
    if late and (received is None or received.status != "FINISHED"):
        return RunResult("", "KILLED", error=reason)
    result: RunResult = RunResult("", "FAILED", error=reason) if received is None else received
    return result


def call(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    name: str,
    minutes: float | None,
    starter: JobStarter,
    method: str,
) -> Any:
    """The result of a function that runs in its own process.

    Args:
        function: of a module, with a result that can be pickled.
        name: of the process.
        minutes: time limit; None: no limit.

    Raises:
        UserError: the function's own; or it died or took too long, with the reason.
    """
    received, reason, _ = _Launch(starter, method, _calling_child, (function, args), name).wait(minutes)
    if received is None:
        raise UserError(f"{name}: {reason}")
    result, error = received
    if error is not None:
        raise error
    return result


def check_parity(
    arms: Sequence[ComparedLoader],
    minutes: float | None,
    starter: JobStarter,
    method: str = SPAWN,
    *,
    quietly: bool = False,
    limit: str = JOB_LIMIT,
) -> dict[str, dict[str, Any]]:
    """Compares the loaders of a sweep with the reference, in a separate process; see `loaderlab.parity.check.check_all`.

    Args:
        limit: see `launch`.

    Returns:
        The result of each loader, by its key. With ``quietly``, it prints nothing. If the process died or took longer than ``minutes``, no loader is checked.
    """
    configs = {arm.name: arm.config for arm in arms}
    received, reason, _ = _Launch(starter, method, _checking_child, (configs, quietly), "parity").wait(minutes, limit)
    if received is None:
        received = {name: {"status": f"{NOT_CHECKED}: {reason}"} for name in configs}
    return {arm.key: {"loader": arm.name, **received[arm.name]} for arm in arms}


class _Launch:
    """A function that runs in a new process and sends its result."""

    def __init__(self, starter: JobStarter, method: str, target: Target, args: tuple[Any, ...], name: str) -> None:
        self._process, self._receiving = starter.start(method, target, args, name)

    def wait(self, minutes: float | None, limit: str = "") -> tuple[Any, str, bool]:
        """What it sends (None if nothing), why it sent nothing, and whether it took too long.

        Args:
            limit: the setting with ``minutes``; empty if no setting has them.

        Raises:
            KeyboardInterrupt: in this process; the other one has ended.
        """
        received, reason = None, ""
        try:
            late = not self._receiving.poll(None if minutes is None else 60 * minutes)  # sleeps until it sends or ends
            if late:
                self._end_late()
                reason = f"took longer than {f'{limit}={minutes:g}' if limit else f'{minutes:g} minutes'}"
            try:
                if self._receiving.poll():
                    received, reasons = self._receiving.recv()
                    add_lost(reasons)
            except EOFError:
                reason = reason or _how_it_died(self._process)
            self._process.ended()
        except KeyboardInterrupt:
            try:
                self._end()
            except KeyboardInterrupt:
                self._process.kill()
            raise
        finally:
            self._receiving.close()
            self._process.close()
        return received, reason, late

    def _end_late(self) -> None:
        """Asks a job that took too long to end, and kills it if it does not."""
        self._process.send(signal.SIGUSR1)
        if not self._receiving.poll(RECORD_S):
            self._process.kill()

    def _end(self) -> None:
        if not self._process.ended(GRACE_S):
            self._process.send(signal.SIGTERM)
            if not self._process.ended(RECORD_S):
                self._process.kill()


def _how_it_died(process: JobProcess) -> str:
    exit_code = process.exit_code()
    if exit_code is None:
        return "its process ended and returned no result; its exit code is unknown, because its template had ended"
    if exit_code < 0:
        name = signal_name(-exit_code)
        cause = f" (usual cause: {USUAL_CAUSES[name]})" if name in USUAL_CAUSES else ""
        return f"its process was ended by {name}{cause}"
    return f"its process ended with exit code {exit_code} and returned no result"


def _child(sending: Connection, config: TrainConfig, job: Job, quietly: bool) -> None:
    end_with_parent()
    time_limit_raises()
    with importing():
        from loaderlab.runs.start import start_run
        from loaderlab.system.terminal import Terminal, quiet_terminal
    terminal = quiet_terminal() if quietly else Terminal()
    if quietly:
        warnings.simplefilter("ignore", UserWarning)  # torch warns of each number of workers above that of the cores
    if note := start_note():
        terminal.warn(note)
    try:
        result = start_run(config, job, terminal)
    except KeyboardInterrupt:
        result = RunResult("", "KILLED", error="interrupted")
    except UserError as error:
        result = RunResult("", "FAILED", error=error_line(error))
        if not quietly:
            print(f"error: {error}", file=sys.stderr, flush=True)
    except (Exception, SystemExit) as error:
        if not quietly:
            traceback.print_exc()
        result = RunResult("", "FAILED", error=error_line(error))
    _send_and_exit(sending, replace(result, warnings=tuple(terminal.warnings)) if quietly else result)


def _checking_child(sending: Connection, arms: Mapping[str, TrainConfig], quietly: bool) -> None:
    end_with_parent()
    time_limit_raises()
    from loaderlab.parity.check import check_all
    from loaderlab.system.terminal import Terminal, quiet_terminal

    with sigterm_raises():
        results = check_all(arms, quiet_terminal() if quietly else Terminal())
    _send_and_exit(sending, results)


def _calling_child(sending: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    end_with_parent()
    time_limit_raises()
    result, failure = None, None
    try:
        with sigterm_raises():
            result = function(*args)
    except UserError as error:
        failure = UserError(str(error)) if not isinstance(error, WrongUsage) else WrongUsage(str(error))
    except (Exception, SystemExit) as error:
        failure = UserError(error_line(error))
    _send_and_exit(sending, (result, failure))


def _send_and_exit(sending: Connection, result: Any) -> None:
    with suppress(BrokenPipeError):  # the launching process has ended
        sending.send((result, lost()))  # it reports lost lines once for all jobs
    os._exit(0)  # without the interpreter's teardown (CUDA, DALI, thread pools)

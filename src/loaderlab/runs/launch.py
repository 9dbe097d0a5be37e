"""Starts a run in a fresh process, waits for it and ends it at its time limit: nothing of the run before it (CUDA context, allocator, DALI's memory, cuDNN's
choices) reaches it, and whatever happens to it leaves the launching process whole.

The standard library's spawned processes serve a single rank; they need no rendezvous, and leave the parent without
torch and without a loop that polls.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from loaderlab.config import TrainConfig, UserError
from loaderlab.parity.status import NOT_CHECKED
from loaderlab.runs.compared_loaders import ComparedLoader
from loaderlab.runs.job import Job, RunResult
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

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

GRACE_S = 2.0  # in which a child that got the same Ctrl-C from the terminal begins to end by itself
RECORD_S = 60.0  # in which it writes its record


def launch(config: TrainConfig, job: Job) -> RunResult:
    """Runs a job in a process of its own and waits for it, ``sweep.job_minutes`` at most.

    Returns:
        Its result; a user's error, an unexpected one and a process that died are told by its ``status`` (FAILED,
        KILLED) and ``error``.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM here; the child has then ended, its run recorded as KILLED. A second one ends
            it at once.
    """
    minutes = config.sweep.job_minutes
    sent, why, late = _wait_for(_child, (config, job), f"run {job.name}", minutes)
    if late and (sent is None or sent.status != "FINISHED"):
        return RunResult("", "KILLED", error=why)
    result: RunResult = RunResult("", "FAILED", error=why) if sent is None else sent
    return result


def check_parity(arms: Sequence[ComparedLoader], minutes: float | None) -> dict[str, dict[str, Any]]:
    """Holds the loaders of a sweep against the reference, in a process of their own; see `loaderlab.parity.check.check_all`.

    Returns:
        By the key of each what was found; a process that died or took longer than ``minutes`` leaves them not checked.
    """
    named = {arm.name: arm.config for arm in arms}
    sent, why, _ = _wait_for(_checking_child, (named,), "parity", minutes)
    if sent is None:
        sent = {name: {"status": f"{NOT_CHECKED}: {why}"} for name in named}
    return {arm.key: {"loader": arm.name, **sent[arm.name]} for arm in arms}


def _wait_for(
    target: Callable[..., None], args: tuple[Any, ...], name: str, minutes: float | None
) -> tuple[Any, str, bool]:
    """What a function sends from a fresh process; None if nothing, then with why; and whether its time was over."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(sending, *args), name=name)
    process.start()
    sending.close()
    sent, why = None, ""
    try:
        late = not receiving.poll(None if minutes is None else 60 * minutes)  # sleeps until the child says or is gone
        if late:
            _end_late(process, receiving)
            why = f"took longer than sweep.job_minutes={minutes:g}"
        try:
            if receiving.poll():
                sent, reasons = receiving.recv()
                add_lost(reasons)
        except EOFError:
            process.join()
            why = why or _how_it_died(process.exitcode)
        process.join()
    except KeyboardInterrupt:
        try:
            _end(process)
        except KeyboardInterrupt:
            process.kill()
            process.join()
        raise
    finally:
        receiving.close()
    return sent, why, late


def _end_late(process: BaseProcess, receiving: Connection) -> None:
    """Tells a job that its time is over; one that does not end by itself is killed."""
    assert process.pid is not None
    os.kill(process.pid, signal.SIGUSR1)
    if not receiving.poll(RECORD_S):
        process.kill()
        process.join()


def _end(process: BaseProcess) -> None:
    process.join(GRACE_S)
    if process.is_alive():
        process.terminate()
        process.join(RECORD_S)
    if process.is_alive():
        process.kill()
        process.join()


def _how_it_died(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal_name(-exitcode)
        cause = f" (usual cause: {USUAL_CAUSES[name]})" if name in USUAL_CAUSES else ""
        return f"its process was ended by {name}{cause}"
    return f"its process ended with exit code {exitcode} and without a result"


def _child(sending: Connection, config: TrainConfig, job: Job) -> None:
    end_with_parent()
    time_limit_raises()
    try:
        with importing():
            from loaderlab.runs.run import run
            from loaderlab.system.terminal import Terminal
    except KeyboardInterrupt:
        os._exit(130)
    try:
        result = run(config, job, Terminal())
    except KeyboardInterrupt:
        result = RunResult("", "KILLED", error="interrupted")
    except UserError as error:
        result = RunResult("", "FAILED", error=error_line(error))
        print(f"error: {error}", file=sys.stderr, flush=True)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        result = RunResult("", "FAILED", error=error_line(error))
    _leave(sending, result)


def _checking_child(sending: Connection, arms: Mapping[str, TrainConfig]) -> None:
    end_with_parent()
    time_limit_raises()
    try:
        from loaderlab.parity.check import check_all
        from loaderlab.system.terminal import Terminal

        with sigterm_raises():
            found = check_all(arms, Terminal())
        _leave(sending, found)
    except KeyboardInterrupt:
        os._exit(130)


def _leave(sending: Connection, result: Any) -> None:
    sending.send((result, lost()))  # this process says nothing of lost lines: the launching one does, once
    sending.close()
    os._exit(0)  # what is left in the interpreter's teardown (CUDA, DALI, thread pools) has nothing to say any more

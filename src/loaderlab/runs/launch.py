"""Starts a run in a fresh process, waits for it and ends it at its time limit.

The run inherits nothing from the run before it (CUDA context, allocator, DALI's memory, cuDNN's choices), and a crash does
not affect the launching process. The standard library's spawned processes are enough for a single rank: they need no
rendezvous, and the parent needs neither torch nor a polling loop.
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

GRACE_S = 2.0  # for a child that received the same Ctrl-C from the terminal to start ending by itself
RECORD_S = 60.0  # for a child to write its record


def launch(config: TrainConfig, job: Job) -> RunResult:
    """Runs a job in its own process and waits for it for at most ``sweep.job_minutes``.

    Returns:
        Its result. After a user's error, an unexpected error or a dead process, ``status`` is FAILED or KILLED and ``error``
        gives the reason.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM in this process. The child has ended by then, and its run is recorded as
            KILLED. A second one ends the child at once.
    """
    minutes = config.sweep.job_minutes
    received, reason, late = _wait_for(_child, (config, job), f"run {job.name}", minutes)
    if late and (received is None or received.status != "FINISHED"):
        return RunResult("", "KILLED", error=reason)
    result: RunResult = RunResult("", "FAILED", error=reason) if received is None else received
    return result


def check_parity(arms: Sequence[ComparedLoader], minutes: float | None) -> dict[str, dict[str, Any]]:
    """Compares the loaders of a sweep with the reference, in a separate process; see `loaderlab.parity.check.check_all`.

    Returns:
        The result of each loader, by its key. If the process died or took longer than ``minutes``, no loader is checked.
    """
    configs = {arm.name: arm.config for arm in arms}
    received, reason, _ = _wait_for(_checking_child, (configs,), "parity", minutes)
    if received is None:
        received = {name: {"status": f"{NOT_CHECKED}: {reason}"} for name in configs}
    return {arm.key: {"loader": arm.name, **received[arm.name]} for arm in arms}


def _wait_for(
    target: Callable[..., None], args: tuple[Any, ...], name: str, minutes: float | None
) -> tuple[Any, str, bool]:
    """What a function sends from a fresh process (None if nothing), why it sent nothing, and whether it took too long."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(sending, *args), name=name)
    process.start()
    sending.close()
    received, reason = None, ""
    try:
        late = not receiving.poll(None if minutes is None else 60 * minutes)  # sleeps until the child sends or ends
        if late:
            _end_late(process, receiving)
            reason = f"took longer than sweep.job_minutes={minutes:g}"
        try:
            if receiving.poll():
                received, reasons = receiving.recv()
                add_lost(reasons)
        except EOFError:
            process.join()
            reason = reason or _how_it_died(process.exitcode)
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
    return received, reason, late


def _end_late(process: BaseProcess, receiving: Connection) -> None:
    """Asks a job that took too long to end, and kills it if it does not."""
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
    return f"its process ended with exit code {exitcode} and returned no result"


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
    _send_and_exit(sending, result)


def _checking_child(sending: Connection, arms: Mapping[str, TrainConfig]) -> None:
    end_with_parent()
    time_limit_raises()
    try:
        from loaderlab.parity.check import check_all
        from loaderlab.system.terminal import Terminal

        with sigterm_raises():
            results = check_all(arms, Terminal())
        _send_and_exit(sending, results)
    except KeyboardInterrupt:
        os._exit(130)


def _send_and_exit(sending: Connection, result: Any) -> None:
    sending.send((result, lost()))  # the launching process reports lost lines once for all jobs
    sending.close()
    os._exit(0)  # without the interpreter's teardown (CUDA, DALI, thread pools)

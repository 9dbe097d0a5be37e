"""A run in a fresh process of its own: nothing of the run before it (CUDA context, allocator, DALI's memory, cuDNN's
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
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from loaderlab.config import TrainConfig, UserError
from loaderlab.jobs import Job, RunResult
from loaderlab.processes import end_with_parent, time_limit_raises

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
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sending, config, job), name=f"run {job.name}")
    process.start()
    sending.close()
    minutes = config.sweep.job_minutes
    try:
        late = not receiving.poll(None if minutes is None else 60 * minutes)  # sleeps until the child says or is gone
        if late:
            _end_late(process, receiving)
        try:
            result: RunResult = receiving.recv() if receiving.poll() else RunResult("", "KILLED")
        except EOFError:
            process.join()
            result = RunResult("", "FAILED", error=_how_it_died(process.exitcode))
        if late and result.status != "FINISHED":
            result = RunResult("", "KILLED", error=f"took longer than sweep.job_minutes={minutes:g}")
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
    return result


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
        name = signal.Signals(-exitcode).name
        cause = " (as a rule: out of memory)" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{cause}"
    return f"its process ended with exit code {exitcode} and without a result"


def _child(sending: Connection, config: TrainConfig, job: Job) -> None:
    end_with_parent()
    time_limit_raises()
    try:
        from loaderlab.run import run  # torch and all: in this process only
        from loaderlab.terminal import Terminal
    except KeyboardInterrupt:
        os._exit(130)
    try:
        result = run(config, job, Terminal())
    except KeyboardInterrupt:
        result = RunResult("", "KILLED", error="interrupted")
    except UserError as error:
        result = RunResult("", "FAILED", error=str(error))
        print(f"error: {error}", file=sys.stderr, flush=True)
    except Exception as error:
        traceback.print_exc()
        result = RunResult("", "FAILED", error=f"{type(error).__name__}: {error}")
    sending.send(result)
    sending.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # what is left in the interpreter's teardown (CUDA, DALI, thread pools) has nothing to say any more

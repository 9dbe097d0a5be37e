"""Explains the death of a DataLoader worker, or an error from a worker, in one line."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from loaderlab.config import refuse
from loaderlab.loaders.contract import LoaderError
from loaderlab.system import doctor
from loaderlab.system.causes import described, safe_text
from loaderlab.system.processes import USUAL_CAUSES, signal_name

# torch's messages: from its SIGCHLD handler, and from its check of workers that have sent nothing for seconds
DEATH = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? (?P<pid>\d+)[\d, ]*\) "
    r"(?:is killed by signal: (?P<signal>[^.]+)|exited unexpectedly(?: with exit code (?P<code>\d+))?)"
)
SENT = re.compile(r"Caught \w+ in (?:DataLoader worker process|pin memory thread)")
SHARED_MEMORY = re.compile(r"shared memory|/torch_|SemLock|sem_open", re.IGNORECASE)
NEEDS_SHM = "Workers need a writable /dev/shm with space left"
WITHOUT_SHM = "loader.num_workers=0, or loader=spdl"  # what to type instead
MEMORY_ADVICE = {
    "SIGKILL": "Type for example: loader.num_workers=1, or a smaller batch_size",
    "SIGBUS": "Make it larger (docker run --shm-size=8g), or type: loader.num_workers=0, which needs none",
}


def explained(error: BaseException, deaths: Sequence[tuple[int, int]] = ()) -> BaseException:
    """A `LoaderError` of one line for a worker's death or a worker's error; any other error unchanged.

    Args:
        error: PyTorch reports a death in a signal handler, so it can be raised anywhere in the training process.
        deaths: process id and exit code of workers that are known to be dead.
    """
    text = safe_text(error) if isinstance(error, RuntimeError) else ""
    if deaths:
        return LoaderError(_died(*deaths[0]))
    if match := DEATH.match(text):
        return LoaderError(_died(int(match["pid"]), _exit_code(match)))
    if isinstance(error, RuntimeError) and (why := doctor.cause(error)):
        return LoaderError(f"{why} ({described(error)})")
    if SENT.match(text):
        return LoaderError(f"loader: a worker failed: {described(error)}{shared_memory_advice(text)}")
    return error


def shared_memory_advice(text: str) -> str:
    """The advice to add to an error about shared memory; empty for other errors."""
    return f". {NEEDS_SHM}. Type: {WITHOUT_SHM}" if SHARED_MEMORY.search(text) else ""


def start_refused(num_workers: int, error: Exception) -> BaseException:
    """The error for workers that cannot be started. It ends with the override to type."""
    condition = doctor.cause(error)
    if condition == doctor.FILES:
        return LoaderError(f"{condition} ({described(error)})")
    allowed, override = f"the workers cannot be started: {described(error)}", "loader.num_workers=0"
    if isinstance(error, OSError):  # from the semaphore of the first queue, which is in /dev/shm
        allowed, override = f"{allowed}. {NEEDS_SHM}", WITHOUT_SHM
    return refuse("loader.num_workers", num_workers, allowed, override, is_example=False, error=LoaderError)


def _exit_code(match: re.Match[str]) -> int | None:
    if match["signal"] is None:
        return None if match["code"] is None else int(match["code"])
    names = {signal.strsignal(number): -number for number in signal.Signals}
    return names.get(match["signal"].strip())


def _died(pid: int, exit_code: int | None) -> str:
    """One line for a dead worker. A negative exit code is a signal, as in `multiprocessing`."""
    worker = f"loader: a DataLoader worker (pid {pid})"
    if exit_code is None:
        return f"{worker} ended unexpectedly. loader.num_workers=0 shows where"
    if exit_code >= 0:
        return f"{worker} ended with exit code {exit_code}: code in the worker ended the process. loader.num_workers=0 shows where"
    name = signal_name(-exit_code)
    if name in MEMORY_ADVICE:
        return f"{worker} was ended by {name} (usual cause: {USUAL_CAUSES[name]}). {MEMORY_ADVICE[name]}"
    return f"{worker} was ended by {name}. PYTHONFAULTHANDLER=1 shows where"

"""What a user can make of the death of a DataLoader worker, and of an error that one has sent."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from loaderlab.config import refuse
from loaderlab.loaders.contract import LoaderError
from loaderlab.system import doctor
from loaderlab.system.causes import described, safe_text
from loaderlab.system.processes import USUAL_CAUSES, signal_name

# torch's texts: from its handler of SIGCHLD, and from its look at workers that have sent nothing for seconds
DEATH = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? (?P<pid>\d+)[\d, ]*\) "
    r"(?:is killed by signal: (?P<signal>[^.]+)|exited unexpectedly(?: with exit code (?P<code>\d+))?)"
)
SENT = re.compile(r"Caught \w+ in (?:DataLoader worker process|pin memory thread)")
SHARED_MEMORY = re.compile(r"shared memory|/torch_|SemLock|sem_open", re.IGNORECASE)
NEEDS_SHM = "Workers need a writable /dev/shm with space left"
WITHOUT_SHM = "loader.num_workers=0, or loader=spdl"  # what to type then
LESS_MEMORY = {
    "SIGKILL": "Type for example: loader.num_workers=1, or a smaller batch_size",
    "SIGBUS": "Make it larger (docker run --shm-size=8g), or type: loader.num_workers=0, which needs none",
}


def explained(error: BaseException, deaths: Sequence[tuple[int, int]] = ()) -> BaseException:
    """A worker's death and an error of a worker in one line each, as a `LoaderError`; any other error as it is.

    Args:
        error: PyTorch reports a death in a signal handler: it comes up wherever the training process happens to be.
        deaths: process id and exit code of workers that are known to have died.
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
    """What to type where an error is about shared memory; else nothing."""
    return f". {NEEDS_SHM}. Type: {WITHOUT_SHM}" if SHARED_MEMORY.search(text) else ""


def start_refused(num_workers: int, error: Exception) -> BaseException:
    """The error for workers that cannot be started, with the command once, at the end."""
    why = doctor.cause(error)
    if why == doctor.FILES:
        return LoaderError(f"{why} ({described(error)})")
    allowed, override = f"the workers cannot be started: {described(error)}", "loader.num_workers=0"
    if isinstance(error, OSError):  # from the semaphore of the first queue, which lies in /dev/shm
        allowed, override = f"{allowed}. {NEEDS_SHM}", WITHOUT_SHM
    return refuse("loader.num_workers", num_workers, allowed, override, is_example=False, error=LoaderError)


def _exit_code(match: re.Match[str]) -> int | None:
    if match["signal"] is None:
        return None if match["code"] is None else int(match["code"])
    names = {signal.strsignal(number): -number for number in signal.Signals}
    return names.get(match["signal"].strip())


def _died(pid: int, exit_code: int | None) -> str:
    """In the manner of `multiprocessing`: a negative exit code is a signal's."""
    worker = f"loader: a DataLoader worker (pid {pid})"
    if exit_code is None:
        return f"{worker} ended unexpectedly. loader.num_workers=0 shows where"
    if exit_code >= 0:
        return f"{worker} ended with exit code {exit_code}: code that it ran has ended the process. loader.num_workers=0 shows where"
    name = signal_name(-exit_code)
    if name in LESS_MEMORY:
        return f"{worker} was ended by {name} (as a rule: {USUAL_CAUSES[name]}). {LESS_MEMORY[name]}"
    return f"{worker} was ended by {name}. PYTHONFAULTHANDLER=1 shows where"

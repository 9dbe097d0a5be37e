"""The template process, from which jobs are forked: the standard library's fork server, after it has imported some modules.

Its environment, core affinity, limits and output are those of its start, and forked processes inherit them. The template is
therefore replaced when one of them has changed. It blocks the signals that a terminal or a batch system sends to the whole
process group, because this process ends the jobs; a forked process unblocks them. It ends with this process.

The module `multiprocessing.forkserver` has no public function that stops the server or returns its pid: `_forkserver` is
its only server, and ``_stop`` waits until it has ended.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from typing import Any

import psutil

from loaderlab.system.processes import PR_SET_PDEATHSIG

BLOCKED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
LIMITS = tuple(sorted({value for name, value in vars(resource).items() if name.startswith("RLIMIT_")}))
STREAMS = (1, 2)
_SERVER: Any = forkserver._forkserver


@dataclass(frozen=True)
class Inherited:
    """What a process inherits from this one, and a template keeps from its start.

    Attributes:
        affinity: the cores that it may use; empty if the system does not say.
        limits: soft and hard limit of each resource.
        streams: device and inode of standard output and standard error.
    """

    environment: dict[str, str]
    path: tuple[str, ...]
    affinity: frozenset[int]
    niceness: int
    limits: tuple[tuple[int, int], ...]
    streams: tuple[tuple[int, int] | None, ...]


def inherited() -> Inherited:
    """What a process that starts now would inherit."""
    return Inherited(
        environment=dict(os.environ),
        path=tuple(sys.path),
        affinity=frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset(),
        niceness=os.getpriority(os.PRIO_PROCESS, 0),
        limits=tuple(resource.getrlimit(number) for number in LIMITS),
        streams=tuple(map(_identity, STREAMS)),
    )


class Template:
    """The one template of this process; it starts when it is first needed.

    Args:
        module: the module that it imports before the first fork. Python ignores an ImportError of it, so the module must
            record what it could not import, and a forked process must check that it is there.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._inherited: Inherited | None = None  # at its start

    @property
    def pid(self) -> int | None:
        """None if it does not run."""
        pid = _server_pid()
        return pid if pid is not None and _runs(pid) else None

    def ensure_running(self) -> None:
        """Starts the template if it does not run, and replaces it if a new process would inherit something else than it has.

        Does not wait until it has imported its module.
        """
        now = inherited()
        if self.pid is not None and self._inherited == now:
            return
        self.stop()
        forkserver.set_forkserver_preload([self._module])
        resource_tracker.ensure_running()  # first, because it unblocks signals
        with _blocked():
            forkserver.ensure_running()
        self._inherited = now

    def stop(self, *, with_forked: bool = False) -> None:
        """Ends the template, if it runs, and ``with_forked`` also the processes that were forked from it."""
        pid = _server_pid()
        if pid is not None:
            forked = psutil.Process(pid).children() if with_forked and _runs(pid) else []
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # otherwise it waits until the last forked process has ended
            for process in forked:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            _SERVER._stop()
        self._inherited = None


def prepare_template() -> None:
    """For the module that a template imports: the kernel kills this process when the process that started it has ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def refresh_forked() -> None:
    """Gives a process forked from a template what a new process has: unblocked signals, and random states of its own.

    Python reseeds its own generator after a fork; torch's default generator has the same seed in every new process.
    """
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)


def _server_pid() -> int | None:
    """The pid of the last fork server, which may have ended; None if there was none."""
    pid: int | None = _SERVER._forkserver_pid
    return pid


def _identity(number: int) -> tuple[int, int] | None:
    try:
        facts = os.fstat(number)
    except OSError:  # it is closed
        return None
    return facts.st_dev, facts.st_ino


def _runs(pid: int) -> bool:
    """Whether a child process runs. It is not waited for: the standard library does that."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


@contextmanager
def _blocked() -> Iterator[None]:
    """Blocks the signals `BLOCKED`; processes that are started meanwhile inherit that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

"""The training process's side of a profile: it prepares workers, starts the sampling, and reads the result."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from loaderlab.config import UserError
from loaderlab.lines import ticker
from loaderlab.lines.sampler import StackSampler
from loaderlab.lines.shares import SlowLines
from loaderlab.lines.stacks import Recording, joined, read
from loaderlab.lines.words import sentence
from loaderlab.system.causes import described

SECONDS = 5.0
LIMITS_S = (0.5, 60.0)
NO_HANDLES = (
    "the system cannot send signals to a thread of a process that may have ended: the profiler needs an x86 or Arm processor and pidfd_open "
    "(Linux 5.3; in Docker before 20.10, a newer seccomp profile)"
)
NOT_LINUX = (
    "profiling a worker needs Linux: signals with numbers of their own, and handles of processes. Leave out measure.workers=true, "
    "--profile-workers or profile_workers()"
)
NOT_YET = "the profile has not begun: it begins after the warm-up"
NOT_BEGUN = "the training ended before the profile began, which is after the warm-up"
NOT_PREPARED = (
    "no worker was sampled: its workers were already running when the profile was asked for, or it starts none"
)


@dataclass(frozen=True)
class Profiled:
    """The result of a profile.

    Attributes:
        lines: None if there are none.
        recording: for `loaderlab.lines.tree.tree`.
        problem: why there are no lines; empty if there are some.
    """

    lines: SlowLines | None
    recording: Recording
    problem: str

    @property
    def sentence(self) -> str:
        """On the slowest line; or why there is none."""
        return f"no slow line: {self.problem}" if self.lines is None else sentence(self.lines)

    def as_json(self) -> dict[str, Any]:
        """As plain values: the sentence, and the shares or the problem."""
        return {"sentence": self.sentence} | ({"problem": self.problem} if self.lines is None else self.lines.as_json())


@dataclass(frozen=True)
class WorkerInit:
    """A ``worker_init_fn`` that prepares worker 0 for the profile, after the user's own function. It can be pickled."""

    folder: str
    inner: Callable[[int], Any] | None
    loader: int = 0

    def __call__(self, worker: int) -> None:
        if self.inner is not None:
            self.inner(worker)
        if worker == 0 and os.path.isdir(
            self.folder
        ):  # it is removed when the profile has ended: later workers are not sampled
            StackSampler(Path(self.folder) / _file_name(self.loader, os.getpid())).install()


def _file_name(loader: int, pid: int | str) -> str:
    return f"{loader}-{pid}.stacks"


class WorkerProfile:
    """A profile of one worker of a loader, or of the loader in the training process if it has no workers.

    In this order: `worker_init` or `prepared` before the workers start, `begin` after the warm-up, `end` when it is no longer `running`,
    `recording`, `close`. The steps while it is `running` are not to be measured: the profiler slows the worker down.

    Args:
        seconds: length of the profile, 0.5 to 60.

    Raises:
        UserError: the system is not Linux.

    Attributes:
        folder: a temporary one, with the samplers' files.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        assert LIMITS_S[0] <= seconds <= LIMITS_S[1], seconds
        if sys.platform != "linux":
            raise UserError(NOT_LINUX)
        self._seconds = seconds
        self.folder = Path(tempfile.mkdtemp(prefix="loaderlab_lines_"))
        self._begun_ns = self._end_ns = 0
        self._ended = False
        self._loader = 0
        self._problem = ""
        self._in_process: StackSampler | None = None
        self._ticker: subprocess.Popen[bytes] | None = None

    # ---- in the training process ---------------------------------------------------------------------------

    def worker_init(self, inner: Callable[[int], Any] | None, loader: int = 0) -> WorkerInit:
        """The ``worker_init_fn`` to give to a DataLoader in place of its own, ``inner``.

        Args:
            loader: its number, if there are several; `begin` gets the number of the one to profile.
        """
        return WorkerInit(str(self.folder), inner, loader)

    @contextmanager
    def prepared(self, loader: Any, number: int = 0) -> Iterator[None]:
        """Inside, ``iter(loader)`` starts workers that can be profiled. For a DataLoader that the user has created.

        Args:
            number: see `worker_init`.
        """
        own = loader.worker_init_fn
        loader.worker_init_fn = self.worker_init(own, number)
        try:
            yield
        finally:
            loader.worker_init_fn = own

    def begin(self, num_workers: int, loader: int = 0) -> None:
        """Starts the sampling, once. Without workers, call it in the main thread.

        Args:
            num_workers: of the loader; with 0, this process is sampled.
            loader: see `worker_init`.
        """
        assert not self._begun_ns, "a profile begins once"
        self._loader, self._begun_ns = loader, perf_counter_ns()
        self._end_ns = self._begun_ns + int(self._seconds * 1e9)
        if not _has_handles():
            return
        if num_workers == 0:
            self._in_process = StackSampler(self.folder / _file_name(loader, os.getpid()))
            self._problem = self._in_process.install()
        arguments = str(self.folder), self._files(), str(self._end_ns)
        try:
            self._ticker = subprocess.Popen([sys.executable, "-I", "-S", ticker.__file__, *arguments])
        except OSError as error:  # the program goes on without a profile
            self._problem = f"the sampling could not be started: {described(error)}"

    @property
    def begun(self) -> bool:
        return self._begun_ns > 0

    @property
    def running(self) -> bool:
        """Between `begin` and its end, which comes by itself."""
        return self.begun and perf_counter_ns() < self._end_ns

    def end(self) -> None:
        """Ends the profile, early if it is running; a second call does nothing."""
        self._ended = True
        if self.begun:
            self._end_ns = min(self._end_ns, perf_counter_ns())
        if self._ticker is not None:
            self._ticker.kill()
            self._ticker.wait()
            self._ticker = None
        if self._in_process is not None:
            self._in_process.stop()

    # ---- afterwards ----------------------------------------------------------------------------------------

    @property
    def interval_ns(self) -> tuple[int, int]:
        """Begin and end, `time.perf_counter_ns`."""
        return self._begun_ns, self._end_ns

    def recording(self) -> Recording:
        """What was sampled between `begin` and the end; with a problem if nothing was."""
        if not self.begun:
            return Recording(problem=NOT_BEGUN if self._ended else NOT_YET)
        whole = joined([read(path) for path in sorted(self.folder.glob(self._files()))])
        samples = tuple(entry for entry in whole.samples if self._begun_ns <= entry.begin_ns < self._end_ns)
        missing = "" if samples else NOT_PREPARED if _has_handles() else NO_HANDLES
        return replace(whole, samples=samples, problem=whole.problem or self._problem or missing)

    def _files(self) -> str:
        """The pattern of the samplers' files."""
        return _file_name(self._loader, "*")

    def close(self) -> None:
        """Ends the profile and removes its files."""
        self.end()
        shutil.rmtree(self.folder, ignore_errors=True)


def _has_handles() -> bool:
    if os.uname().machine not in ticker.TGKILL:
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True

"""The training process's side of a profile: it prepares workers, starts the sampling, and reads the result."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from loaderlab.config import refuse
from loaderlab.lines.sampler import StackSampler
from loaderlab.lines.shares import LEAST_BUSY_S, SlowLines, Waits, slow_lines
from loaderlab.lines.stacks import Recording, joined, read

SECONDS = 5.0
ON = "on"  # the file that tells new workers to start at once; its content is the end of the profile, perf_counter_ns
SETTLE_S = 0.3  # after the end: a worker ends its last sample


@dataclass(frozen=True)
class WorkerInit:
    """A ``worker_init_fn`` that prepares worker 0 for the profile, after the user's own function. It can be pickled."""

    folder: str
    seconds: float
    inner: Callable[[int], Any] | None

    def __call__(self, worker: int) -> None:
        if self.inner is not None:
            self.inner(worker)
        if worker == 0:
            _begin_worker(Path(self.folder), self.seconds)


def _begin_worker(folder: Path, seconds: float) -> None:
    """Prepares this process; if the profile already runs, because an epoch has begun in it, starts the rest of it."""
    on = folder / ON
    left_s = (int(on.read_text(encoding="utf-8")) - perf_counter_ns()) / 1e9 if on.exists() else seconds
    if left_s > 0:
        sampler = StackSampler(folder / f"{os.getpid()}.stacks", left_s)
        if not sampler.install() and on.exists():
            sampler.start()


class WorkerProfile:
    """A profile of one worker of a loader, or of the loader in the training process if it has no workers.

    In this order: `worker_init` or `prepared` before the workers start, `begin` after the warm-up, `waited` for each wait while `running`,
    `result`. The steps while it is `running` are not to be measured.

    Args:
        seconds: length of the profile.

    Raises:
        UserError: ``seconds`` is not in `LIMITS_S`.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self.folder = Path(tempfile.mkdtemp(prefix="loaderlab_lines_"))
        self._begun_ns = self._end_ns = 0
        self._num_workers = 0
        self._problem = ""
        self._waits: list[tuple[int, int]] = []

    def worker_init(self, inner: Callable[[int], Any] | None) -> WorkerInit:
        """The ``worker_init_fn`` to give to the DataLoader in place of its own, ``inner``."""
        return WorkerInit(str(self.folder), self._seconds, inner)

    @contextmanager
    def prepared(self, loader: Any) -> Iterator[None]:
        """Inside, ``iter(loader)`` starts workers that can be profiled. For a DataLoader that somebody else has created."""
        own = loader.worker_init_fn
        loader.worker_init_fn = self.worker_init(own)
        try:
            yield
        finally:
            loader.worker_init_fn = own

    def begin(self, num_workers: int) -> None:
        """Starts the sampling, in the main thread.

        Args:
            num_workers: of the loader; with 0, this process is sampled.
        """
        raise NotImplementedError

    @property
    def begun(self) -> bool:
        return self._begun_ns > 0

    @property
    def running(self) -> bool:
        """Between `begin` and its end, which comes by itself."""
        return self.begun and perf_counter_ns() < self._end_ns

    def waited(self, begin_ns: int, end_ns: int) -> None:
        """Notes a wait of the training for a batch, `time.perf_counter_ns`. On an asynchronous device only its part in which the device had
        no work."""
        self._waits.append((begin_ns, end_ns))

    def end(self) -> None:
        """Ends the profile early; new workers are not sampled any more."""
        raise NotImplementedError

    def recording(self) -> Recording:
        """What was sampled so far."""
        raise NotImplementedError

    @property
    def problem(self) -> str:
        """Why there is no result; empty if there is one."""
        return self._problem

    def result(self, *, waits_pct: float, waits: Waits | None = None, device_x: float | None = None) -> SlowLines | None:
        """The slow lines; None if there are none, see `problem`. See `loaderlab.lines.shares.slow_lines`.

        Args:
            waits: by default those that were noted by `waited`.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Removes the files."""
        shutil.rmtree(self.folder, ignore_errors=True)

"""Workers that die, that fail and that cannot be started: one line each, with what to type."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import signal
from typing import Any

import psutil
import pytest
import torch
from torch.utils.data import Dataset

from loaderlab.config import NativeLoader
from loaderlab.data.spec import Split, UserItems
from loaderlab.device.cpu import Cpu
from loaderlab.loaders.contract import EpochPlan, LoaderError
from loaderlab.loaders.native import Native
from loaderlab.loaders.worker_death import explained

MEMORY = "num_workers=1"
SHARED = "/dev/shm"

# torch raises from its SIGCHLD handler, wherever the main thread is: in hypothesis's callback of the garbage collector, Python
# drops the exception with a warning, and the loader notices the death by its next look at the worker
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <function gc_cumulative_time:pytest.PytestUnraisableExceptionWarning"
)


class Deadly(Dataset[tuple[torch.Tensor, int]]):
    """Item 13 ends the process that asks for it: by a signal, or with an exit code."""

    def __init__(self, end: int) -> None:
        self.end = end

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index == 13:
            if self.end < 0:
                os.kill(os.getpid(), -self.end)
            os._exit(self.end)
        return torch.zeros(2000), 0


def native(dataset: Any, **settings: Any) -> Native:
    split = Split(UserItems(dataset, False, None, None, 2))
    config = NativeLoader(num_workers=2, **settings)
    return Native(config, split, EpochPlan(40, 4, False, False), Cpu())


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize(
    ("end", "message", "advice"),
    [
        (-signal.SIGKILL, "was ended by SIGKILL (usual cause: out of memory)", MEMORY),
        (-signal.SIGBUS, "was ended by SIGBUS (usual cause: /dev/shm is full)", SHARED),
        (-signal.SIGSEGV, "was ended by SIGSEGV. PYTHONFAULTHANDLER=1", ""),
        (3, "ended with exit code 3", ""),
    ],
)
def test_a_death_is_one_line(end: int, message: str, advice: str, persistent: bool) -> None:
    loader = native(Deadly(end), persistent_workers=persistent)
    try:
        with pytest.raises(LoaderError) as error:
            list(loader.epoch(0))
    finally:
        loader.close()
    line = str(error.value)
    assert message in line
    assert advice in line
    assert "\n" not in line
    if not advice:
        assert MEMORY not in line
        assert SHARED not in line


class Broken:
    """Replaces torch's iterator; the pipe to a worker breaks."""

    _iterator = None

    def __init__(self, error: Exception, worker: Any) -> None:
        self.error, self._workers = error, [worker]

    def __iter__(self) -> Broken:
        return self

    def __next__(self) -> Any:
        raise self.error


def end_with(code: int) -> None:
    os._exit(code)


@pytest.mark.parametrize(
    "error",
    [EOFError(), FileNotFoundError(2, "No such file"), ConnectionResetError(104, "reset"), RuntimeError("pipe")],
)
def test_an_error_of_the_pipe_to_a_dead_worker_is_reported_as_its_death(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = multiprocessing.get_context("fork").Process(target=end_with, args=(4,))
    worker.start()
    if isinstance(error, RuntimeError):  # torch has waited for the process
        worker.join()
    loader = native(Deadly(0))
    monkeypatch.setattr(loader, "_loader", Broken(error, worker))
    with pytest.raises(LoaderError, match=rf"worker \(pid {worker.pid}\) ended with exit code 4"):
        list(loader.epoch(0))


def test_an_error_without_a_dead_worker_is_raised_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = native(Deadly(0))
    monkeypatch.setattr(loader, "_fetched", lambda: Broken(FileNotFoundError(2, "No such file"), None))
    with pytest.raises(FileNotFoundError):
        list(loader.epoch(0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", "(pid 7) was ended by SIGKILL"),
        (
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that",
            "(pid 7) was ended by SIGBUS",
        ),
        ("DataLoader worker (pid 7) is killed by signal: Aborted. ", "(pid 7) was ended by SIGABRT"),
        ("DataLoader worker (pid 7) exited unexpectedly with exit code 1. Details", "(pid 7) ended with exit code 1"),
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", "(pid 7) ended unexpectedly"),
        (
            "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File\n"
            "RuntimeError: unable to open shared memory object </torch_1> in read-write mode: Read-only file system (30)",
            "a worker failed: RuntimeError: unable to open shared memory object </torch_1> in read-write mode: Read-only "
            "file system (30). Workers need a writable /dev/shm",
        ),
        (
            "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File\n"
            "ValueError: of the user",
            "a worker failed: ValueError: of the user",
        ),
    ],
)
def test_messages_of_torch_are_explained(text: str, message: str) -> None:
    error = explained(RuntimeError(text))
    assert isinstance(error, LoaderError)
    assert message in str(error)
    assert (MEMORY in str(error)) == ("SIGKILL" in message)


@pytest.mark.parametrize(
    "error", [RuntimeError("my DataLoader worker is sad"), ValueError("DataLoader worker (pid 7)")]
)
def test_another_error_is_unchanged(error: Exception) -> None:
    assert explained(error) is error


@pytest.mark.parametrize(
    "error", [OSError(30, "Read-only file system"), OSError(28, "No space left on device"), TypeError("cannot pickle")]
)
def test_workers_that_cannot_be_started(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a read-only /dev/shm the first queue gets no semaphore; the dataset of a spawned worker may not pickle."""

    def refuses(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(multiprocessing.queues.Queue, "__init__", refuses)
    loader = native(Deadly(0))
    with pytest.raises(LoaderError) as refused:
        list(loader.epoch(0))
    line = str(refused.value)
    assert re.match(r"loader\.num_workers=2: the workers cannot be started: ", line)
    assert str(error) in line
    assert ("/dev/shm" in line) == isinstance(error, OSError)
    assert line.count("Type: ") == 1
    assert line.count("loader.num_workers=0") == 1
    assert line.partition("Type: ")[2].startswith("loader.num_workers=0")
    loader.close()


def test_too_many_open_files_when_workers_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The advice about /dev/shm would be wrong."""

    def refuses(*_: Any, **__: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(multiprocessing.queues.Queue, "__init__", refuses)
    loader = native(Deadly(0))
    with pytest.raises(LoaderError, match="too many files are open. Type in the shell: ulimit -n") as refused:
        list(loader.epoch(0))
    assert SHARED not in str(refused.value)
    loader.close()


def test_workers_that_are_not_persistent_are_closed_too() -> None:
    """Also after another worker has died and the traceback refers to the iterator."""
    before = {child.pid for child in psutil.Process().children()}
    loader = native(Deadly(3), persistent_workers=False)
    with pytest.raises(LoaderError) as error:
        list(loader.epoch(0))
    loader.close()
    alive = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    assert {child.pid for child in alive} <= before
    assert error.value is not None


def test_a_death_that_is_reported_while_another_error_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch raises it in a signal handler, so it can come at any point in the training process."""

    def reported(*_: object, **__: object) -> list[tuple[int, int]]:
        raise RuntimeError("DataLoader worker (pid 17) exited unexpectedly with exit code 3. Details are lost.")

    monkeypatch.setattr("loaderlab.loaders.native.dead_workers", reported)
    loader = native(Deadly(3))
    with pytest.raises(LoaderError, match=r"pid 17\) ended with exit code 3"):
        list(loader.epoch(0))
    loader.close()


def test_an_error_whose_text_cannot_be_shown_is_unchanged() -> None:
    class Unshown(RuntimeError):
        def __str__(self) -> str:
            raise TypeError("no text")

    error = Unshown()
    assert explained(error) is error

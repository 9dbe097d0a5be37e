"""SIGTERM as an exception, so that a run that is asked to end records that it was killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from types import FrameType
from typing import Any


class Terminated(KeyboardInterrupt):
    """SIGTERM came. A KeyboardInterrupt, so that what handles Ctrl-C handles it as well."""

    exit_code = 128 + signal.SIGTERM


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Raises `Terminated` in the main thread when SIGTERM comes; the former handler is put back at the end."""

    def terminate(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    before: Any = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def quiet() -> Iterator[None]:
    """Ignores SIGTERM for a short while, in which a run that is ending writes its record."""
    before: Any = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end_with_parent() -> None:
    """From now on this process gets SIGTERM when the process that started it is gone, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "not a child of multiprocessing"

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()

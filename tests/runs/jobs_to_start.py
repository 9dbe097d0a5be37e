"""Jobs for the tests of how processes start: each sends what it finds in its process. They import little, and quickly."""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from loaderlab.runs.job_start import start_method, start_note
from loaderlab.system.forked import template_pid
from loaderlab.system.processes import end_with_parent, sigterm_raises, time_limit_raises

TEXT = "a text whose hash depends on the seed of the process"


def describe(sending: Connection) -> None:
    """Sends what the process has inherited and what it has by itself."""
    numpy: Any = sys.modules.get("numpy")
    facts = {
        "pid": os.getpid(),
        "template": template_pid(),
        "start": start_method(),
        "note": start_note(),
        "environment": dict(os.environ),
        "argv": sys.argv,
        "path": sys.path,
        "folder": os.getcwd(),
        "affinity": os.sched_getaffinity(0),
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "streams": [os.fstat(number).st_ino for number in (1, 2)],
        "hash": hash(TEXT),
        "random": random.random(),
        "numpy": None if numpy is None else numpy.random.random(),
    }
    sending.send(facts)


def write_a_record(sending: Connection, path: Path) -> None:
    """Trains until it is interrupted; then it takes a second to write its record."""
    time_limit_raises()
    with sigterm_raises():
        try:
            sending.send("training")
            time.sleep(60)
        except KeyboardInterrupt as end:
            time.sleep(1.0)
            path.write_text(type(end).__name__)


def with_a_worker(sending: Connection) -> None:
    """Sends its pid and the pid of the process that started the fork server of its worker."""
    context = multiprocessing.get_context("forkserver")
    receiving, worker_sending = context.Pipe(duplex=False)
    worker = context.Process(target=_grandparent, args=(worker_sending,))
    worker.start()
    sending.send((os.getpid(), receiving.recv()))
    worker.join()


def _grandparent(sending: Connection) -> None:
    parent = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[1]
    sending.send(int(parent))


def ends_with_its_launcher(sending: Connection, path: Path) -> None:
    """Writes its record when its launcher has ended."""
    end_with_parent()
    write_a_record(sending, path)

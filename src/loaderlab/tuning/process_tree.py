"""Ends a process with everything that it has started."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import psutil

WAIT_S = 5.0


def kill_tree(pid: int, *, leads_group: bool = False) -> None:
    """Kills a process and its descendants, and waits until they have ended.

    Args:
        leads_group: the process leads a process group: descendants whose parents have ended are killed too, unless they left it.
    """
    processes = []
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        processes = [process, *process.children(recursive=True)]
    if leads_group:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs([process for process in processes if process.pid != pid], timeout=WAIT_S)

"""A process that runs a job: waiting for its end, signalling it, and its exit code.

A process forked from a template is a grandchild of this process, so the standard library gets its exit code from the
template. It takes the death of the template for the end of the process. Here, the kernel reports the end of the process.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from loaderlab.system.template import Template

UNKNOWN = 255  # what the standard library says if the template does not answer


class JobProcess:
    """A process that has been started.

    Args:
        process: as `multiprocessing` started it.
        template: the template it was forked from; None if it was spawned.
    """

    def __init__(self, process: BaseProcess, template: Template | None = None) -> None:
        assert process.pid is not None
        self.pid = process.pid
        self._process, self._template = process, template
        self._handle = process_handle(self.pid)

    def ended(self, seconds: float | None = None) -> bool:
        """Whether the process has ended, after waiting for at most so long; None: until it ends."""
        handle = self._process.sentinel if self._handle is None else self._handle
        return bool(wait([handle], seconds))

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, unless the process has ended."""
        with suppress(ProcessLookupError):
            if self._handle is None:
                os.kill(self.pid, number)
            else:
                signal.pidfd_send_signal(self._handle, number)  # a pid may belong to another process by now

    def kill(self) -> None:
        """Ends the process at once, and waits until it has ended."""
        self.send(signal.SIGKILL)
        self.ended()

    def exit_code(self) -> int | None:
        """Waits for the end of the process. Negative: the number of the signal that ended it. None: unknown, because its template
        ended before it could report the code."""
        self.ended()
        self._process.join()
        code = self._process.exitcode
        lost = self._template is not None and self._template.pid is None
        return None if lost and code == UNKNOWN else code

    def close(self) -> None:
        """Closes the handle on the process."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def process_handle(pid: int) -> int | None:
    """A file descriptor that is ready when the process has ended; None if it has, or if the system has no such handles."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None

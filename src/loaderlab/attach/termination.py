"""SIGTERM at the end of a rank: it waits until the result is there. Does not import torch."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType


class Termination:
    """SIGTERM, with which torchrun ends the other ranks when one has failed. It waits until the result is there, and then ends the
    program as it would have done before. A program without other ranks, or with a handler of its own, is not affected.

    Attributes:
        arrived: the signal was received.
    """

    def __init__(self) -> None:
        self.arrived = self._deferring = False

    def defer(self, finish: Callable[[], None] = lambda: None) -> None:
        """Lets the signal wait until `release`.

        Args:
            finish: makes the result when the signal arrives, unless that is being done already.
        """
        is_main = threading.current_thread() is threading.main_thread()
        if not is_main or not _has_other_ranks() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            return

        def terminated(number: int, frame: FrameType | None) -> None:
            self.arrived = True
            finish()

        signal.signal(signal.SIGTERM, terminated)
        self._deferring = True

    def release(self) -> None:
        """Ends the waiting; if the signal has arrived, so does the program."""
        if self._deferring:
            self._deferring = False
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if self.arrived:
                os.kill(os.getpid(), signal.SIGTERM)


def _has_other_ranks() -> bool:
    number = os.environ.get("WORLD_SIZE", "1")
    return number.isdigit() and int(number) > 1

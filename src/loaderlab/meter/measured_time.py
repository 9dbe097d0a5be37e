"""The length of the measured window while a loop still runs, so that the loop can end when it is long enough."""

from __future__ import annotations

import time
from collections.abc import Callable


class MeasuredTime:
    """Adds up the steps of the measured window: the same steps as `loaderlab.meter.summary.measured`, on the host's clock.

    Args:
        warmup_steps, ramp: see `loaderlab.meter.summary.measured`.
        clock: in seconds; tests pass a fake clock.
    """

    def __init__(self, warmup_steps: int, ramp: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._warmup_steps, self._ramp, self._clock = warmup_steps, ramp, clock
        self._last = 0.0
        self.seconds, self.num_steps = 0.0, 0

    def end_step(self, total: int, position: int, *, disturbed: bool = False) -> None:
        """Call after each step.

        Args:
            total, position: number of steps in the run and in this epoch, with the one that has just ended.
            disturbed: it is not measured, because a profiler runs.
        """
        now = self._clock()
        if total > self._warmup_steps and position > self._ramp and not disturbed:
            self.seconds, self.num_steps = self.seconds + now - self._last, self.num_steps + 1
        self._last = now

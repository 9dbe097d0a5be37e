"""The profile of the loader of a loop that `loaderlab.attach.watch` measures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from time import perf_counter_ns
from typing import Any, TypeVar

from torch.utils.data import DataLoader

from loaderlab.config import UserError
from loaderlab.lines.control import LIMITS_S, Profiled, WorkerProfile, without_work
from loaderlab.lines.tree import tree
from loaderlab.meter.phases import ALL_STEPS, StepMeter

T = TypeVar("T")


class ProfiledLoop:
    """Begins the profile after the warm-up, ends it, and leaves its steps out of the measurement.

    Args:
        seconds: length of the profile.

    Raises:
        UserError: it is out of range, or the system is not Linux.
    """

    def __init__(self, meter: StepMeter, seconds: float) -> None:
        if not LIMITS_S[0] <= seconds <= LIMITS_S[1]:
            raise UserError(
                f"watch: meter.profile_workers({seconds:g}): must be {LIMITS_S[0]:g} to {LIMITS_S[1]:g} seconds"
            )
        self._meter, self._profile = meter, WorkerProfile(seconds)
        self._waits: dict[int, tuple[int, int]] = {}  # step: its wait
        self._ended = False
        self._result: Profiled | None = None

    def iterator(self, loader: Iterable[T]) -> Iterator[T]:
        """``iter(loader)``, whose workers can be sampled."""
        if self._ended or not _num_workers(loader):
            return iter(loader)
        with self._profile.prepared(loader, id(loader)):
            return iter(loader)

    def batch(self, loader: Iterable[T], batches: Iterator[T], warmup_steps: int) -> T:
        """The next batch of `iterator`. Its wait is noted while the profile runs.

        Raises:
            StopIteration: there is none.
        """
        meter, profile = self._meter, self._profile
        if not profile.begun and meter.num_steps >= warmup_steps:
            meter.disturb(ALL_STEPS)
            profile.begin(_num_workers(loader), id(loader))
        elif profile.begun and not profile.running:
            self._stop()
        begin = perf_counter_ns()
        batch = next(batches)
        if profile.running:
            self._waits[meter.num_steps] = (begin, perf_counter_ns())
        return batch

    def _stop(self) -> None:
        if not self._ended:
            self._ended = True
            self._profile.end()
            if self._profile.begun:
                self._meter.undisturb()
                self._meter.disturb(1)  # this step, in which the profile ends

    def end(self) -> None:
        """Ends the profile with the loop, and reads its result."""
        self._stop()
        if self._result is None:
            self._result = self.result()
            self._profile.close()

    def result(self) -> Profiled:
        """The result so far. On an asynchronous device, only the end of a wait counts, in which it had no work."""
        if self._result is not None:
            return self._result
        idle_ms = {step.step: step.device.idle for step in self._meter.settled if step.device is not None}
        waits = [without_work(begin, end, idle_ms.get(number)) for number, (begin, end) in self._waits.items()]
        return self._profile.result(waits=waits)

    def html(self, title: str) -> str:
        """The tree.

        Raises:
            UserError: nothing was sampled, or pyinstrument is not installed.
        """
        result = self.result()
        if result.lines is None:
            raise UserError(f"watch: there is no tree of slow lines: {result.problem}")
        return tree(result.recording, title)


def _num_workers(loader: Any) -> int:
    return int(loader.num_workers) if isinstance(loader, DataLoader) else 0

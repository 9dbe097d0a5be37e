"""The profile of the loader of a loop that `loaderlab.attach.watch` measures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from time import perf_counter_ns
from typing import Any, TypeVar

from torch.utils.data import DataLoader

from loaderlab.config import UserError
from loaderlab.diagnosis.line_figures import LineRecord, line_record, waits_in
from loaderlab.lines.control import LIMITS_S, WorkerProfile
from loaderlab.lines.shares import within_waits
from loaderlab.lines.stacks import Frame, Recording
from loaderlab.meter.phases import ALL_STEPS, StepMeter

T = TypeVar("T")
FROM_WORKERS = "the loader's batches come from worker processes that this profile cannot see. Give meter.batches() the DataLoader itself"
_WAITS_FOR_WORKERS = ("_try_get_data", "_get_data")  # of torch's DataLoader


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
        self._waits: list[tuple[int, int, int]] = []  # step, begin, end
        self._num_workers, self._loader = 0, 0  # of the loader that is profiled: its id
        self._warmup_steps = 1
        self._ended = False
        self._recording: Recording | None = None  # after the end

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
            self._num_workers, self._loader = _num_workers(loader), id(loader)
            self._warmup_steps = max(1, warmup_steps)
            profile.begin(self._num_workers, self._loader)
        elif profile.begun and not profile.running:
            self._stop()
        begin = perf_counter_ns()
        batch = next(batches)
        if profile.running and id(loader) == self._loader:
            self._waits.append((meter.num_steps, begin, perf_counter_ns()))
        return batch

    def _stop(self) -> None:
        if not self._ended:
            self._ended = True
            self._profile.end()
            if self._profile.begun:
                self._meter.undisturb()
                self._meter.disturb(self._warmup_steps)  # batches that were made during the profile

    def end(self) -> None:
        """Ends the profile with the loop, and reads what it recorded; a second call does nothing."""
        self._stop()
        if self._recording is None:
            self._recording = self._profile.recording()
            self._profile.close()

    def record(self) -> LineRecord:
        """What was recorded so far."""
        recording = self._profile.recording() if self._recording is None else self._recording
        record = line_record(recording, waits_in(self._meter.settled, self._waits), self._num_workers)
        if self._num_workers or recording.problem or not _comes_from_workers(record):
            return record
        return replace(record, recording=replace(recording, problem=FROM_WORKERS))


def _comes_from_workers(record: LineRecord) -> bool:
    """Whether the training process spent most of its waits in a DataLoader that waited for its workers."""
    samples = record.recording.samples
    waited = [sample for sample, within in zip(samples, within_waits(samples, record.waits), strict=True) if within]
    for_workers = [sample for sample in waited if any(map(_waits_for_workers, sample.stack))]
    return 2 * sum(sample.wall_ns for sample in for_workers) > sum(sample.wall_ns for sample in waited)


def _waits_for_workers(frame: Frame) -> bool:
    return frame.function in _WAITS_FOR_WORKERS and frame.file.endswith("torch/utils/data/dataloader.py")


def _num_workers(loader: Any) -> int:
    return int(loader.num_workers) if isinstance(loader, DataLoader) else 0

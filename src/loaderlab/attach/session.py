"""Watches the loaders and optimizers of this process, from `Session.start` to `Session.stop`. Does not import torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from threading import get_ident
from time import perf_counter_ns
from typing import TYPE_CHECKING

from loaderlab.attach import hooks
from loaderlab.attach.events import save_profile
from loaderlab.attach.passes import Pass
from loaderlab.attach.recorder import Recorder, recorder
from loaderlab.config import UserError

if TYPE_CHECKING:
    from loaderlab.attach.profiled_program import ProfiledProgram
    from loaderlab.attach.reading import Reading

COST_ROWS = 30
CACHE_BYTES = 2**23


class Session:
    """One measurement of this process's loaders and optimizers.

    Args:
        max_steps: number of optimizer steps after which the measurement ends; None: never.
        rows_file: what happens is also written to this file, about once per second; another process can read it with
            `loaderlab.attach.events.read`.
        profile_workers: also sample a worker after the warm-up, for some seconds whose steps are not measured.
    """

    def __init__(
        self, max_steps: int | None = None, rows_file: Path | None = None, *, profile_workers: bool = False
    ) -> None:
        self._max_steps, self._rows_file = max_steps, rows_file
        self._profiled = _profiled() if profile_workers else None

    def start(self) -> None:
        """Starts recording. torch may be imported before or after it.

        Raises:
            UserError: another measurement of this kind is running.
        """
        if recorder.started:
            raise UserError("another measurement of the loaders of this process is running: one at a time")
        hooks.install(None if self._profiled is None else self._profiled.hooks)
        recorder.start(self._max_steps, self._rows_file, _counters)

    def stop(self) -> None:
        """Stops recording."""
        recorder.describe(row_cost_ns=row_cost_ns(), children=recorder.children)
        recorder.stop()
        if self._profiled is not None:
            self._profiled.end()

    def discard(self) -> None:
        """Removes the files of the profile, in place of `reading`."""
        if self._profiled is not None:
            self._profiled.discard()

    @property
    def num_rows(self) -> int:
        """Number of events so far."""
        return recorder.num_rows

    def reading(self) -> Reading:
        """The verdicts on what was recorded."""
        from loaderlab.attach.reading import read_events

        events = recorder.events()
        if self._profiled is not None:
            profile = self._profiled.profile(events)
            events = replace(events, profile=profile)
            if self._rows_file is not None:
                save_profile(profile, self._rows_file)
        return read_events(events)


def _profiled() -> ProfiledProgram:
    from loaderlab.attach.profiled_program import ProfiledProgram  # needs Linux

    return ProfiledProgram()


def _counters() -> dict[str, float]:
    from loaderlab.meter.resources import counters  # imports psutil: after the script has imported what it needs

    return counters()


def row_cost_ns(clock: Callable[[], int] = perf_counter_ns) -> float:
    """The time that a row costs the program, ns: the median of a recorder of its own, without a device.

    Before each row, other data fill the processor's caches, as in a program's step; otherwise a row takes a tenth of the time.
    """
    trial, other, costs = Recorder(), bytes(CACHE_BYTES), []
    trial.start(None, None)
    current = Pass(trial.recording, 0, 0, 1, 1)
    for _ in range(COST_ROWS):
        other.count(b"x")
        began = clock()
        begin, thread = clock(), get_ident()
        trial.recent.append((current, thread, begin, clock(), 1, 0))
        trial.stepped(thread, clock())
        costs.append((clock() - began) / 2)
    return float(median(costs))

"""The profile of a worker's lines during a run: when it begins and ends, and which steps it disturbs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from loaderlab.config import choice, refuse
from loaderlab.diagnosis.line_figures import LineRecord, line_record, waits_in
from loaderlab.lines.control import WorkerProfile
from loaderlab.loaders.capabilities import Makers
from loaderlab.meter.phases import ALL_STEPS, StepMeter
from loaderlab.meter.step import Step
from loaderlab.runs.context import RunContext
from loaderlab.runs.prepare import Prepared
from loaderlab.system.extras import require


def line_profile(context: RunContext, prepared: Prepared) -> LineProfile | None:
    """The profile that a run asks for; None without one, on another rank than the first, or with a loader that has no lines to profile.

    Raises:
        MissingPackage: the package that draws its tree is not installed.
    """
    if not context.config.measure.workers or not context.ranks.is_first:
        return None
    require("measure.workers=true", "pyinstrument")
    makers = prepared.parts.loader.capabilities.makers
    if makers is None or not makers.are_processes:
        why = f"not applicable here: loader={choice(context.config.loader)} prepares its batches in no worker process"
        context.terminal.warn(str(refuse("measure.workers", "true", why, "loader=native", is_example=False)))
        return None
    return LineProfile(context, prepared, makers)


class LineProfile:
    """Call `on_step` after each step of a loop. The profile begins after the warm-up and ends by itself."""

    def __init__(self, context: RunContext, prepared: Prepared, makers: Makers) -> None:
        measure, loader = context.config.measure, prepared.parts.loader
        self._num_workers, self._warmup = makers.count, prepared.settings.warmup_steps
        total = prepared.length.num_steps() if measure.seconds is None else None
        if total is not None:
            total -= prepared.progress.step  # before a resume
        # the other half of the run is measured
        self._last_step = None if total is None else self._warmup + max(1, (total - self._warmup) // 2)
        self._profile = WorkerProfile(measure.workers_s)
        self._recording = self._profile.recording()
        self._waits: list[tuple[int, int, int]] = []  # step, begin, end
        self._open, self._disturbs, self._measured_from = True, False, 0
        loader.call_in_workers(self._profile.worker_init(None))

    def disturbs(self, step: int) -> bool:
        """Whether this step is not measured because of the profile, or because its batch may have been made during it."""
        return self._disturbs and (self._open or step < self._measured_from)

    def on_step(self, meter: StepMeter) -> None:
        """Begins the profile after the warm-up, notes the waits in it, and ends it."""
        if not self._open:
            return
        if not self._profile.begun:
            if self._disturbs:  # in a step that is not measured, since it takes some milliseconds
                self._profile.begin(self._num_workers)
            elif meter.num_steps >= self._warmup:
                self._disturbs = True
                meter.disturb(ALL_STEPS)
            return
        self._waits.append((meter.num_steps - 1, *meter.last_wait_ns))
        if not self._profile.running or (self._last_step is not None and meter.num_steps >= self._last_step):
            with meter.aside():
                self.close()
            meter.undisturb()
            meter.disturb(self._warmup)  # batches that were made during the profile
            self._measured_from = meter.num_steps + self._warmup

    def close(self) -> None:
        """Ends the profile and reads what it recorded; a second call does nothing."""
        if not self._open:
            return
        self._open = False
        with contextlib.closing(self._profile):
            self._profile.end()
            self._recording = self._profile.recording()

    def result(self, steps: Sequence[Step]) -> LineRecord:
        """What was recorded.

        Args:
            steps: of the loop, in order.
        """
        return line_record(self._recording, waits_in(steps, self._waits), self._num_workers)

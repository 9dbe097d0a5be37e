"""A PyTorch profiler trace of a few steps: scheduled, limited in size, with the phases named."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from torch.profiler import ProfilerAction, ProfilerActivity, profile

from loaderlab.device.base import Device
from loaderlab.meter.phases import StepMeter

NAME = "trace.json.gz"
WARMUP = 2  # steps under the profiler before it records: it starts slowly
SAMPLE = 1  # step whose trace shows how large the others will be
BEYOND = WARMUP + SAMPLE + 1  # steps that the profiler disturbs besides those that it records


class StepProfiler:
    """Call `step` after each step of a loop: the profiler starts, records and ends by itself.

    Args:
        folder: where `NAME` is written.
        steps: to record; fewer if the trace of the first one shows that they would exceed ``mib``.
        mib: maximum size of the compressed trace.
        settle: steps after the profile that are not measured either: the loader has worked ahead during it.
    """

    def __init__(self, folder: Path, steps: int, mib: int, device: Device, settle: int) -> None:
        self.path = folder / NAME
        self._steps, self._mib, self._settle = steps, mib, settle
        self._device = device
        self._recorded = 0
        self.done = False
        # otherwise Kineto prints messages about its start and about missing GPUs
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.capabilities.asynchronous else [])
        self._profile = profile(activities=activities, schedule=self._action, on_trace_ready=self._keep)
        self.running = False

    @property
    def num_steps(self) -> int:
        """Number of steps from the profiler's start to its end."""
        return BEYOND + self._steps

    def step(self, meter: StepMeter) -> None:
        """Reports the end of a step to the profiler; the first call starts it."""
        if self.done:
            return
        meter.annotate(True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the profiler warns about its own events between two recordings
            if not self.running:
                self._profile.start()
                self.running = True
            else:
                self._let_finish()
                self._profile.step()
        if self._recorded == 2 or (self._recorded == 1 and not self._steps):
            self.close()
            meter.annotate(False)
            meter.disturb(self._settle)

    def _let_finish(self) -> None:
        """Waits for the device before recording starts: the trace would show work begun earlier as an idle device."""
        now = self._profile.step_num
        if self._action(now) == ProfilerAction.WARMUP != self._action(now + 1):
            self._device.synchronize()

    def _action(self, step: int) -> ProfilerAction:
        last = BEYOND + self._steps - 1
        if step < WARMUP or step == WARMUP + SAMPLE:
            return ProfilerAction.WARMUP
        if step in (WARMUP, last):
            return ProfilerAction.RECORD_AND_SAVE
        return ProfilerAction.RECORD if step < last else ProfilerAction.NONE

    def _keep(self, recorded: profile) -> None:
        """Writes the trace. After the sample step it also computes how many more steps fit the size limit."""
        recorded.export_chrome_trace(str(self.path))
        self._recorded += 1
        if self._recorded == 1:
            fit = int(self._mib * 2**20 // max(1, self.path.stat().st_size))
            self._steps = min(self._steps, fit)  # with 0 the trace of the sample step is kept

    def close(self) -> None:
        """Ends the profiler, even in the middle of a recording; a second call does nothing."""
        if self.running and not self.done:
            self._profile.stop()
        self.done = True

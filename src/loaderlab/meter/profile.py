"""A trace of a few steps by PyTorch's profiler, on a schedule and bounded in size, with the phases' names in it."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch
from torch.profiler import ProfilerAction, ProfilerActivity, profile

from loaderlab.meter.phases import StepMeter

NAME = "trace.json.gz"
WARMUP = 2  # steps under the profiler before it records: its own start is slow
SAMPLE = 1  # step whose trace tells how large the others will be
BEYOND = WARMUP + SAMPLE + 1  # steps that the profiler disturbs beside those that it records


class StepProfiler:
    """Call `step` after each step of a loop: it begins, records and ends by itself.

    Args:
        folder: where `NAME` is written.
        steps: to record; fewer where the trace of one shows that so many would exceed ``mib``.
        mib: size of the compressed trace at most.
        settle: steps after the profile that are not to be measured either: the loader has worked ahead meanwhile.
    """

    def __init__(self, folder: Path, steps: int, mib: int, device: torch.device, settle: int) -> None:
        self.path = folder / NAME
        self._steps, self._mib, self._settle = steps, mib, settle
        self._cuda = device if device.type == "cuda" else None
        self._recorded = 0
        self.done = False
        os.environ.setdefault(
            "KINETO_LOG_LEVEL", "99"
        )  # else its library prints of its own start, and of GPUs not there
        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
        self._profile = profile(activities=activities, schedule=self._action, on_trace_ready=self._keep)
        self.running = False

    @property
    def num_steps(self) -> int:
        """That it takes in all."""
        return BEYOND + self._steps

    def step(self, meter: StepMeter) -> None:
        """Tells the profiler that a step has ended; the first call starts it."""
        if self.done:
            return
        meter.annotate(True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the profiler about itself: its events between two recordings
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
        """Before it records: of work that was begun earlier the trace would show nothing, and the device idle."""
        now = self._profile.step_num
        if self._cuda and self._action(now) == ProfilerAction.WARMUP != self._action(now + 1):
            torch.cuda.synchronize(self._cuda)

    def _action(self, step: int) -> ProfilerAction:
        last = BEYOND + self._steps - 1
        if step < WARMUP or step == WARMUP + SAMPLE:
            return ProfilerAction.WARMUP
        if step in (WARMUP, last):
            return ProfilerAction.RECORD_AND_SAVE
        return ProfilerAction.RECORD if step < last else ProfilerAction.NONE

    def _keep(self, recorded: profile) -> None:
        """After the first step: how many more fit. After the others: their trace in its place."""
        recorded.export_chrome_trace(str(self.path))
        self._recorded += 1
        if self._recorded == 1:
            fit = int(self._mib * 2**20 // max(1, self.path.stat().st_size))
            self._steps = min(self._steps, fit)  # with none the sample is all there is

    def close(self) -> None:
        """Ends the profiler, whatever it has; again is harmless."""
        if self.running and not self.done:
            self._profile.stop()
        self.done = True

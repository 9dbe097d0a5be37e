"""Selects the process whose steps are read, and gives the start and end of each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from loaderlab.config import AUTO, TraceConfig, refuse
from loaderlab.trace.collect import Step
from loaderlab.trace.intervals import FLOAT, Union

ROUNDING_US = 2.0  # allowed overlap of steps: old profilers rounded start and length separately
NO_STEPS = (
    "the trace has no profiler steps (ProfilerStep#N), so it is not known where a step begins. Record it with "
    "torch.profiler.profile(…, schedule=torch.profiler.schedule(wait=1, warmup=1, active=20)) as prof, and call "
    "prof.step() after each training step"
)


@dataclass(frozen=True)
class StepSpans:
    """Start and end of each step, (N,) µs, in order of time."""

    starts: FLOAT
    ends: FLOAT

    @property
    def lengths(self) -> FLOAT:
        return self.ends - self.starts

    def within(self, moments: Union) -> FLOAT:
        """The time of each step that lies in the set, (N,) µs."""
        return moments.covered(self.starts, self.ends)

    def touch(self, moments: Union) -> bool:
        return moments.touches(self.starts, self.ends)


def step_spans(steps: Sequence[Step]) -> StepSpans:
    return StepSpans(np.array([step.start for step in steps]), np.array([step.end for step in steps]))


def one_process(recorded: Sequence[Step], config: TraceConfig) -> list[Step]:
    """The steps of one process in order of time, without duplicates.

    Raises:
        UserError: there are several processes and none is chosen, the chosen one has no steps, or steps overlap.
    """
    pids = sorted({step.thread[0] for step in recorded})
    if config.pid != AUTO and config.pid not in pids:
        known = ", ".join(pids) or "none"
        raise refuse(
            "pid",
            config.pid,
            f"has no profiler steps in this trace; processes with steps: {known}",
            f"pid={[*pids, AUTO][0]}",
        )
    if config.pid == AUTO and len(pids) > 1:
        allowed = f"the trace has steps of {len(pids)} processes, {', '.join(pids)}; choose one, and its GPU"
        raise refuse("pid", AUTO, allowed, f"pid={pids[0]} device=0")
    if len(pids) > 1 and config.device == AUTO:
        raise refuse(
            "device",
            AUTO,
            "the trace has several processes, and GPU events do not name their process; choose the GPU of process "
            f"{config.pid}",
            f"pid={config.pid} device=0",
        )
    once = {(step.start, step.end, step.number): step for step in recorded if config.pid in (AUTO, step.thread[0])}
    steps = [once[key] for key in sorted(once)]
    for one, other in pairwise(steps):
        if other.start < one.end - ROUNDING_US:
            raise refuse(
                "trace",
                config.trace,
                f"ProfilerStep#{one.number} and ProfilerStep#{other.number} of process {one.thread[0]} overlap, as in a file "
                "merged from several traces; allowed: the trace of one process",
                "trace=rank0.pt.trace.json",
            )
    return steps

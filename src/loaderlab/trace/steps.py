"""Whose steps are read, and when each of them starts and ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from loaderlab.config import AUTO, TraceConfig, refuse
from loaderlab.trace.collect import Step
from loaderlab.trace.intervals import FLOAT, Union

ROUNDING_US = 2.0  # by which steps may overlap: old profilers rounded start and length apart
NO_STEPS = (
    "the trace has no profiler steps (ProfilerStep#N), so nothing says where a step begins. Record it with "
    "torch.profiler.profile(…, schedule=torch.profiler.schedule(wait=1, warmup=1, active=20)) as prof, and call "
    "prof.step() after each training step"
)


@dataclass(frozen=True)
class StepSpans:
    """When each step starts and ends (N,), µs, in the order of time."""

    starts: FLOAT
    ends: FLOAT

    @property
    def lengths(self) -> FLOAT:
        return self.ends - self.starts

    def within(self, moments: Union) -> FLOAT:
        """How much of each step lies in the set (N,), µs."""
        return moments.covered(self.starts, self.ends)

    def touch(self, moments: Union) -> bool:
        return moments.touches(self.starts, self.ends)


def step_spans(steps: Sequence[Step]) -> StepSpans:
    return StepSpans(np.array([step.start for step in steps]), np.array([step.end for step in steps]))


def one_process(recorded: Sequence[Step], config: TraceConfig) -> list[Step]:
    """The steps of one process, in the order of time, each once.

    Raises:
        UserError: several processes and none chosen, one that has no steps, or steps that overlap.
    """
    pids = sorted({step.thread[0] for step in recorded})
    if config.pid != AUTO and config.pid not in pids:
        known = ", ".join(pids) or "none"
        raise refuse(
            "pid", config.pid, f"has no profiler steps in this trace; with steps: {known}", f"pid={[*pids, AUTO][0]}"
        )
    if config.pid == AUTO and len(pids) > 1:
        allowed = f"the trace holds the steps of {len(pids)} processes, {', '.join(pids)}; choose one, and its GPU"
        raise refuse("pid", AUTO, allowed, f"pid={pids[0]} device=0")
    if len(pids) > 1 and config.device == AUTO:
        raise refuse(
            "device",
            AUTO,
            "the trace holds several processes, and work on a GPU does not tell whose it is; choose the GPU of process "
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
                "merged from several traces; allowed is the trace of one process",
                "trace=rank0.pt.trace.json",
            )
    return steps

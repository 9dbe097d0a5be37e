"""The profile of a worker's lines, read against the measured steps, and its metrics. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from loaderlab import metrics
from loaderlab.diagnosis.evidence import Evidence
from loaderlab.lines.control import Profiled
from loaderlab.lines.shares import FREE_BELOW_PCT, LEAST_BUSY_S, SlowLines, Waits, slow_lines
from loaderlab.lines.stacks import Recording
from loaderlab.meter.step import Step

NO_WAITS = "the training read fewer than two batches during the profile"
IDLE = f"the loader worked for less than {LEAST_BUSY_S} s during the profile"


class Wait(NamedTuple):
    """A wait of the training for a batch, on the clock `time.perf_counter_ns`.

    Attributes:
        idle_ns: how long an asynchronous device had no work before the end; None: of another device.
    """

    begin_ns: int
    end_ns: int
    idle_ns: int | None = None


def waits_in(steps: Sequence[Step], waits: Iterable[tuple[int, int, int]]) -> list[Wait]:
    """The waits of some steps of a loop.

    Args:
        waits: the number of the step, and its wait's begin and end in ns.
    """
    idle_ns = {step.step: round(1e6 * step.device.idle) for step in steps if step.device is not None}
    return [Wait(begin_ns, end_ns, idle_ns.get(number)) for number, begin_ns, end_ns in waits]


def line_record(recording: Recording, waits: Sequence[Wait], num_workers: int) -> LineRecord:
    """The record of a profile.

    Args:
        waits: in the profiled steps, in order. With workers, a wait counts from the moment when the device had no more work; without, loading
            delays the step even while the device still works.
    """
    if not recording.problem and len(waits) < 2:
        recording = replace(recording, problem=NO_WAITS)
    begins = [
        wait.begin_ns
        if wait.idle_ns is None or not num_workers
        else min(wait.end_ns, max(wait.begin_ns, wait.end_ns - wait.idle_ns))
        for wait in waits
    ]
    counted = [(begin, wait.end_ns) for begin, wait in zip(begins, waits, strict=True) if begin < wait.end_ns]
    return LineRecord(recording, counted, num_workers)


@dataclass(frozen=True)
class LineRecord:
    """What the profile of a loop's loader recorded, before it is read against the measured steps.

    Attributes:
        recording: of one worker, or of the training process without workers.
        waits: when the training waited for a batch in the profiled steps, `time.perf_counter_ns`.
        num_workers: of the loader.
    """

    recording: Recording
    waits: Waits
    num_workers: int

    def profiled(self, evidence: Evidence) -> Profiled:
        """The slow lines by the measured steps, or why there are none."""
        lines = self.lines(evidence)
        return Profiled(lines, self.recording, self.problem(lines))

    def lines(self, evidence: Evidence) -> SlowLines | None:
        """The slow lines, with their gains by the measured steps, or by the profiled ones if too few were measured for a verdict; None if there
        are none: see `problem`."""
        if self.recording.problem:
            return None
        if evidence.num_steps < evidence.least_steps:
            return slow_lines(
                self.recording, self.waits, num_workers=self.num_workers, waits_pct=_share_pct(self.waits)
            )
        starved_pct = min(99.9, max(0.0, evidence.starved_pct - evidence.delivery_pct))
        # a ceiling above this is one of a step that the loader does not slow down, and a faster loader still would
        device_x = 1 / (1 - starved_pct / 100)
        if evidence.headroom is not None:
            device_x = min(device_x, max(1.0, evidence.headroom))
        waits_pct = starved_pct
        if (
            self.num_workers == 0 and starved_pct >= FREE_BELOW_PCT
        ):  # loading delays the step, even while the device still works
            waits_pct = max(starved_pct, evidence.wait_pct)
        return slow_lines(
            self.recording, self.waits, num_workers=self.num_workers, waits_pct=waits_pct, device_x=device_x
        )

    def problem(self, lines: SlowLines | None) -> str:
        """Why there are no ``lines``; empty if there are."""
        return "" if lines is not None else self.recording.problem or IDLE


def _share_pct(waits: Waits) -> float:
    """The share of the time in waits, percent, from the begin of the first to the begin of the last."""
    span = waits[-1][0] - waits[0][0] if waits else 0
    return 100 * sum(end - begin for begin, end in waits[:-1]) / span if span else 0.0


def line_figures(lines: SlowLines | None) -> dict[str, float]:
    """Metric name to value; empty without lines."""
    if lines is None:
        return {}
    gain = lines.gain(lines.top)
    return {
        metrics.LINES_SHARE_PCT: lines.top.wall_pct,
        metrics.LINES_EXPOSED_PCT: 0.0 if lines.top.is_free else lines.top.exposed_pct,
        metrics.LINES_BUSY_PCT: lines.busy_pct,
        metrics.LINES_LOADER_X: gain.loader_x,
        metrics.LINES_RUN_X: gain.run_x,
        metrics.LINES_COST_PCT: lines.cost_pct,
    }

"""The profile of a worker's lines, read against the measured steps, and its metrics. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loaderlab import metrics
from loaderlab.diagnosis.evidence import Evidence
from loaderlab.lines.control import IDLE
from loaderlab.lines.shares import FREE_BELOW_PCT, SlowLines, slow_lines
from loaderlab.lines.stacks import Recording


@dataclass(frozen=True)
class LineRecord:
    """What the profile of a loop's loader recorded, before it is read against the measured steps.

    Attributes:
        recording: of one worker, or of the training process without workers.
        waits: when the training waited for a batch in the profiled steps, `time.perf_counter_ns`.
        num_workers: of the loader.
        why_not: why there is no recording; empty if there is one.
    """

    recording: Recording
    waits: Sequence[tuple[int, int]]
    num_workers: int
    why_not: str = ""

    def lines(self, evidence: Evidence) -> SlowLines | None:
        """The slow lines, with their gains by the measured steps; None if there are none: see `problem`."""
        if self.why_not or self.recording.problem:
            return None
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
        if lines is not None:
            return ""
        return self.why_not or self.recording.problem or IDLE


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

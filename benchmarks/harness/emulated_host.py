"""Loaders of known speed in front of a host that needs longer to queue a step than the emulated accelerator needs to do it.

Then no loader can feed the accelerator. Of its idle time only the part counts as starved in which the host waits for data: with a
cycle c, a step s and a host time h it is 1 - max(s, h) / c.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from benchmarks.harness.emulated_runs import (
    BATCH,
    POINTS,
    STEP_MS,
    Bench,
    Check,
    EmulatedCase,
    custom,
    run,
    sleeping,
    verdict_checks,
)
from loaderlab import metrics
from loaderlab.diagnosis.capacity import capacity_of
from loaderlab.diagnosis.evidence import LAUNCH, PARTLY_FROM_PCT, STORAGE

HOST_MS = 40.0
SHARE = 0.02  # tolerated error of the limit


@dataclass(frozen=True)
class HostBound:
    """A loader in front of a host that is slower than the accelerator."""

    sample_ms: float
    workers: int

    @property
    def name(self) -> str:
        return f"host {HOST_MS:g} ms per step of {STEP_MS:g} ms, sleep {self.sample_ms:g} ms, {self.workers} workers"

    def checks(self, bench: Bench) -> list[Check]:
        """The comparisons of one run."""
        planted = sleeping(self.sample_ms, self.workers, custom(host_ms=HOST_MS), bench.steps)
        measured = run(planted, bench.all_probes)
        cycle_ms = 1e3 * BATCH / measured.rate
        truth = 100 * (1 - HOST_MS / cycle_ms)
        bottlenecks = {LAUNCH} if truth < PARTLY_FROM_PCT + POINTS else set()  # near the threshold there are two
        bottlenecks |= {STORAGE} if truth >= PARTLY_FROM_PCT - POINTS else set()
        promises = {metrics.WORKERS_NEEDED, metrics.CORES_NEEDED} & measured.figures.keys()
        capacity = capacity_of(measured.evidence, measured.setup)
        share = capacity.limit.share if capacity is not None and capacity.limit is not None else 1.0
        return [
            Check("starved share against 1 - host time / cycle, points", measured.starved_pct - truth, POINTS),
            *verdict_checks(measured.verdict, truth, bottlenecks),
            Check("promises that workers or cores would be enough", len(promises), 0, f"{promises}"),
            Check("most that a loader can give", share - STEP_MS / HOST_MS, SHARE, f"{share:.3f}"),
        ]


CASES: list[EmulatedCase] = [HostBound(*cell) for cell in itertools.product((0.0, 2.0), (0, 1, 2))]

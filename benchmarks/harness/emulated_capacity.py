"""The capacity estimates against what really feeds an emulated accelerator."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from benchmarks.harness.emulated_grid import photos, rate_alone
from benchmarks.harness.emulated_runs import BATCH, Bench, Check, EmulatedCase, custom, run, sleeping
from loaderlab import metrics
from loaderlab.diagnosis.capacity import CLOSE
from loaderlab.diagnosis.evidence import PARTLY_FROM_PCT

SAMPLE_MS = 2.0  # a batch takes 64 ms
MAX_WORKERS = 12
SPEEDS_MS = (20.0, 10.0, 7.0)  # steps, which need about 4, 7 and 10 workers
STEPS_PER_WORKER = 8  # at least: workers deliver in bursts, and start with full queues
CORES_PCT = 10.0  # tolerated error of the cores needed
CORES_LOAD = 0.7  # requested rate / rate of the loader alone: the machine feeds it with certainty


@dataclass(frozen=True)
class Workers:
    """Sleeping samples, which need no core, with 1 to 12 workers."""

    step_ms: float

    @property
    def name(self) -> str:
        return f"1 to {MAX_WORKERS} sleeping workers, steps of {self.step_ms:g} ms"

    def checks(self, bench: Bench) -> list[Check]:
        """The comparisons of one run of each number of workers with the first number that feeds the accelerator."""
        estimates, first = [], None
        for workers in range(1, MAX_WORKERS + 1):
            steps = max(bench.steps, STEPS_PER_WORKER * workers)
            result = run(sleeping(SAMPLE_MS, workers, custom(self.step_ms), steps), bench.loader_alone)
            estimates.append(result.figures[metrics.WORKERS_NEEDED])
            if first is None and result.starved_pct < PARTLY_FROM_PCT:
                first = workers
        assert first is not None, "no number of workers fed the accelerator"
        text = f"first fed with {first}; estimates {', '.join(f'{estimate:.2f}' for estimate in estimates)}"
        numbers = [math.ceil(estimate - CLOSE) for estimate in estimates]  # as the verdict says
        worst = max(numbers, key=lambda number: abs(number - first))
        return [Check("workers_needed, rounded up, workers", worst - first, 1.0, text)]


@dataclass(frozen=True)
class Cores:
    """Decoded photos at a rate that this machine reaches."""

    workers: int
    host_ms: float

    @property
    def name(self) -> str:
        return f"cores for photos, {self.workers} workers, host {self.host_ms:g} ms"

    def checks(self, bench: Bench) -> list[Check]:
        """The comparisons of one run with the CPU seconds that it used."""
        step_ms = 1e3 * BATCH / (CORES_LOAD * rate_alone(self.workers, bench))
        planted = photos(self.workers, custom(step_ms, host_ms=self.host_ms), bench)
        result = run(replace(planted, epochs=2), bench.loader_alone)  # workers start in the first epoch
        estimate = result.figures[metrics.CORES_NEEDED]
        used = result.cores_used * result.requested_rate / result.rate  # about equal: the loader is fast enough
        text = f"{estimate:.3f} cores needed, {used:.3f} used, starved {result.starved_pct:.1f} %"
        return [Check("cores_needed, %", 100 * (estimate / used - 1), CORES_PCT, text)]


CASES: list[EmulatedCase] = [
    *(Workers(step_ms) for step_ms in SPEEDS_MS),
    *(Cores(workers, host_ms) for workers in (1, 2) for host_ms in (0.0, 4.0)),
]

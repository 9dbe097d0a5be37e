"""The cases of `benchmarks.watch_truths`: frameworks, workers, accumulation, and true shares of waiting. Pure."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

BATCH, PREFETCH = 2, 2  # samples; batches per worker, torch's default
FRAMEWORKS = {"plain_loop": 0.5, "hf_trainer": 5.0, "lightning_trainer": 1.0, "accelerate_loop": 0.7}
"""The script, and about how many milliseconds per batch it takes besides its planted sleep."""
WORKERS, ACCUMULATE, SHARES_PCT = (0, 1, 2), (1, 4), (6.0, 35.0, 65.0)
STEP_MS = {1: 40.0, 4: 16.0}  # of one batch, by accumulation
OVERSLEPT_MS = 0.1  # a sleep takes about so much longer than planned
LOOP_S, LEAST_STEPS, MOST_STEPS = 3.0, 28, 80
AHEAD = (
    "hf_trainer",
    "accelerate_loop",
)  # fetch a batch ahead: the last request of an epoch gets no batch, only the end of the data
LEAST_WARMUP = 5  # optimizer steps, as docs/your_loop.md says


@dataclass(frozen=True)
class Case:
    """One script with planted times.

    Attributes:
        share_pct: about the share of waiting that the planted times give; the scripts measure the true one.
    """

    framework: str
    workers: int
    accumulate: int
    share_pct: float

    @property
    def name(self) -> str:
        return f"{self.framework} workers={self.workers} accumulate={self.accumulate} {self.share_pct:.0f}%"

    @property
    def script(self) -> str:
        return f"{self.framework}.py"

    @property
    def work_ms(self) -> float:
        """Of one batch."""
        return STEP_MS[self.accumulate] + FRAMEWORKS[self.framework]

    @property
    def at_once(self) -> bool:
        """Whether the framework fetches all batches of an optimizer step before it works on the first."""
        return self.framework == "hf_trainer"

    @property
    def batch_ms(self) -> float:
        """The time in which one process makes a batch, so that the case has its share."""
        low, high = 0.0, 1e4
        for _ in range(50):
            middle = (low + high) / 2
            if self.formula_pct(middle, self.work_ms) < self.share_pct:
                low = middle
            else:
                high = middle
        return round(high, 2)

    @property
    def sample_ms(self) -> float:
        return max(0.0, self.batch_ms / BATCH - OVERSLEPT_MS)

    @property
    def steps(self) -> int:
        """An even number: there are two epochs."""
        cycle_ms = self.accumulate * self.work_ms / (1 - self.share_pct / 100)
        return 2 * math.ceil(min(max(1e3 * LOOP_S / cycle_ms, LEAST_STEPS), MOST_STEPS) / 2)

    @property
    def evaluate(self) -> bool:
        return self.workers == 1

    @property
    def arguments(self) -> list[str]:
        """The command line of the script."""
        planted = {
            "--workers": self.workers,
            "--accumulate": self.accumulate,
            "--sample-ms": self.sample_ms,
            "--step-ms": STEP_MS[self.accumulate],
            "--steps": self.steps,
        }
        return [*(f"{name}={value:g}" for name, value in planted.items()), *(["--evaluate"] if self.evaluate else [])]

    def formula_pct(self, batch_ms: float, work_ms: float) -> float:
        """The share of waiting that follows from the times of one batch in a worker and in the step."""
        if not self.workers:
            return 100 * batch_ms / (batch_ms + work_ms)
        return 100 * simulated_share(self.workers, self.accumulate, batch_ms, work_ms, at_once=self.at_once)


def simulated_share(workers: int, accumulate: int, batch_ms: float, work_ms: float, *, at_once: bool) -> float:
    """The share of time in which a loop waits for workers that take turns and work ahead, as torch's do.

    A worker begins a batch when it has ended its last one and the batch ``workers * PREFETCH`` places before was taken.

    Args:
        at_once: the loop fetches ``accumulate`` batches before it works on the first.
    """
    steps = 200
    lookahead = workers * PREFETCH
    ready, taken = [0.0] * workers, [0.0] * lookahead  # by batch, modulo
    now = waited = measured_from = 0.0
    for number in range(steps * accumulate):
        if number == steps * accumulate // 2:
            waited, measured_from = 0.0, now
        begins = max(ready[number % workers], taken[number % lookahead])
        ready[number % workers] = begins + batch_ms
        waited += max(0.0, ready[number % workers] - now)
        now = max(now, ready[number % workers])
        taken[number % lookahead] = now
        last = (number + 1) % accumulate == 0
        if last or not at_once:
            now += work_ms * (accumulate if at_once else 1)
    return waited / (now - measured_from)


CASES = [Case(*cell) for cell in itertools.product(FRAMEWORKS, WORKERS, ACCUMULATE, SHARES_PCT)]
BY_NAME = {case.name: case for case in CASES}


# ---- the truth -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Truth:
    """What the script's own clock says about the steps after the warm-up.

    Attributes:
        share_pct: the true share of waiting: without workers the time in the dataset, otherwise the time until the batch was there.
        formula_pct: the share that follows from the planted time of the samples and the measured time of the work.
    """

    share_pct: float
    formula_pct: float
    num_steps: int


def truth_of(case: Case, cycles: list[dict[str, float]]) -> Truth:
    """The truth from the cycles that a script wrote. The first steps, the starts of epochs, and steps that only reach the end of the data are
    left out: they are reported separately, as warm-up and as gaps between epochs."""
    warmup = max(LEAST_WARMUP, math.ceil(case.workers * PREFETCH / case.accumulate))
    starts = max(1, math.ceil(case.workers / case.accumulate))
    positions = [cycle["position"] for cycle in cycles] + [0.0]
    epochs = [index for index in range(1, len(positions)) if positions[index] <= positions[index - 1]]
    ends = {end - 1 for end in epochs} if case.framework in AHEAD and case.accumulate == 1 else set()
    kept = [
        cycle
        for index, cycle in enumerate(cycles)
        if index >= warmup and cycle["position"] >= starts and index not in ends
    ]
    total_ms = sum(cycle["wait_ms"] + cycle["work_ms"] for cycle in kept)
    waited_ms = sum(cycle["wait_ms"] if case.workers else cycle["samples_ms"] for cycle in kept)
    work_ms = (total_ms - waited_ms) / len(kept) / case.accumulate
    return Truth(100 * waited_ms / total_ms, case.formula_pct(case.batch_ms, work_ms), len(kept))


def all_steps_pct(case: Case, cycles: list[dict[str, float]]) -> float:
    """The true share of waiting over all steps."""
    waited_ms = sum(cycle["wait_ms"] if case.workers else cycle["samples_ms"] for cycle in cycles)
    return 100 * waited_ms / sum(cycle["wait_ms"] + cycle["work_ms"] for cycle in cycles)

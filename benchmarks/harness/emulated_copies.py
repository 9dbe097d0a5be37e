"""The copies of a batch to an emulated accelerator: the ladder's rungs pinned, non-blocking and side stream."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from benchmarks.harness.emulated_runs import BATCH, POINTS, STEP_MS, Bench, Check, EmulatedCase, custom, run, sleeping

COPY_MS = 5.0  # of a batch in pinned memory: a quarter of the step
SAMPLE_FLOATS = 2**14  # 64 KiB; a batch has 2 MiB, so that a worker needs little time to send it
TARGET_BYTES = 8
GB_PER_S = BATCH * (4 * SAMPLE_FLOATS + TARGET_BYTES) / (COPY_MS * 1e6)
SAMPLE_MS = (0.0, 0.7)  # a batch takes little time, or 22.4 ms
WORKERS = (0, 1)
RUNGS = {  # as the ladder's: each adds one setting
    "pageable": {"pin_memory": False, "non_blocking": False, "side_stream": False},
    "pinned": {"pin_memory": True, "non_blocking": False, "side_stream": False},
    "non_blocking": {"pin_memory": True, "non_blocking": True, "side_stream": False},
    "side_stream": {"pin_memory": True, "non_blocking": True, "side_stream": True},
}


@dataclass(frozen=True)
class Copies:
    """A loader on all rungs."""

    sample_ms: float
    workers: int

    @property
    def name(self) -> str:
        return f"copies of {COPY_MS:g} ms, sleep {self.sample_ms:g} ms, {self.workers} workers"

    def checks(self, bench: Bench) -> list[Check]:
        """The comparisons of one run of each rung: the difference of its starved share from the rung before."""
        batch_ms = bench.batch_ms(self.sample_ms, self.workers, SAMPLE_FLOATS)
        measured, expected = {}, {}
        for rung, settings in RUNGS.items():
            planted = sleeping(
                self.sample_ms,
                self.workers,
                custom(copy_gb_per_s=GB_PER_S),
                bench.steps,
                size=SAMPLE_FLOATS,
                **settings,
            )
            measured[rung] = run(planted, bench.no_probes).starved_pct
            expected[rung] = 100 * (1 - STEP_MS / cycle_ms(rung, self.workers, batch_ms))
        checks = []
        for before, rung in itertools.pairwise(RUNGS):
            difference, truth = measured[rung] - measured[before], expected[rung] - expected[before]
            text = f"starved {measured[rung]:.1f} % after {measured[before]:.1f} %, expected {expected[rung]:.1f} % after {expected[before]:.1f} %"
            checks.append(Check(f"difference {before} to {rung}, points", difference - truth, POINTS, text))
        return checks


def cycle_ms(rung: str, workers: int, batch_ms: float) -> float:
    """The time between two steps that follows from the contract.

    - On the step's stream, a copy starts after the previous step, and the next step after the copy: the accelerator needs step +
      copy. From pageable memory the copy takes twice as long.
    - A blocking copy keeps the training process until it ends. Without workers, the next batch is built only then, while the step
      runs: the accelerator needs max(step, batch) + copy.
    - On a side stream the copy runs during the previous step, and the accelerator needs only the step.

    Args:
        batch_ms: from a request to the batch; with a worker, also between two of its batches.
    """
    settings = RUNGS[rung]
    copy_ms = COPY_MS if settings["pin_memory"] else 2 * COPY_MS
    if settings["side_stream"]:
        return max(STEP_MS, batch_ms)
    if settings["non_blocking"] or workers:
        return max(STEP_MS + copy_ms, batch_ms)
    return max(STEP_MS, batch_ms) + copy_ms


CASES: list[EmulatedCase] = [Copies(*cell) for cell in itertools.product(SAMPLE_MS, WORKERS)]

"""Loaders of known speed against an emulated accelerator: sleeping samples, and photos that are decoded."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

from benchmarks.harness.emulated_runs import (
    BATCH,
    POINTS,
    STEP_MS,
    Bench,
    Check,
    EmulatedCase,
    Measured,
    Planted,
    custom,
    run,
    sleeping,
    verdict_checks,
)
from loaderlab import data
from loaderlab.config import AcceleratorConfig, NativeLoader, PhotosData, TransformConfig
from loaderlab.diagnosis.evidence import (
    COMPUTE,
    DECODE,
    EPOCH_START,
    HAND_OVER,
    JITTER,
    PARTLY_FROM_PCT,
    STORAGE,
)

SAMPLE_MS = (0.0, 0.3, 0.8, 1.0, 2.0)
WORKERS = (0, 1, 2, 4)
HOST_MS = (0.0, 4.0)
RATE_PCT = 3.0  # tolerated error of the rate
FAST = (HAND_OVER, JITTER, EPOCH_START)  # bottlenecks of a loader that is fast enough on average
RATE = "rate against the formula, %"
PHOTO_STEPS = 60  # a batch takes longer than a batch that sleeps
PHOTO_WORKERS = (0, 1, 2)
PHOTO_SPEEDS = (0.5, 1.0, 2.0)  # requested rate / rate of the loader with one worker


@dataclass(frozen=True)
class Sleeping:
    """A cell of the grid: samples that sleep."""

    sample_ms: float
    workers: int
    host_ms: float

    @property
    def name(self) -> str:
        return f"sleep {self.sample_ms:g} ms, {self.workers} workers, host {self.host_ms:g} ms"

    def checks(self, bench: Bench) -> list[Check]:
        """The comparisons of one run."""
        planted = sleeping(self.sample_ms, self.workers, custom(host_ms=self.host_ms), bench.steps)
        measured = run(planted, bench.all_probes)
        expected_rate = 1e3 * BATCH / self._cycle_ms(bench)
        rate_error = 100 * (measured.rate / expected_rate - 1)
        text = f"{measured.rate:,.1f} samples/s instead of {expected_rate:,.1f}"
        return [*common_checks(measured, STORAGE), Check(RATE, rate_error, RATE_PCT, text)]

    def _cycle_ms(self, bench: Bench) -> float:
        """The contract's time between two steps: the slowest of the accelerator, the training process and the workers."""
        batch_ms = bench.batch_ms(self.sample_ms, self.workers)
        if self.workers == 0:
            return max(STEP_MS, batch_ms + self.host_ms)
        hand_over_ms = bench.batch_ms(0.0, self.workers)
        return max(STEP_MS, self.host_ms + hand_over_ms, batch_ms / self.workers)


def common_checks(measured: Measured, bottleneck: str) -> list[Check]:
    """The comparisons of any run with its own rate and its own log.

    Args:
        bottleneck: the right one if the loader is too slow.
    """
    truth = measured.idle_by_rate_pct
    return [
        Check("starved share against 1 - rate / requested rate, points", measured.starved_pct - truth, POINTS),
        Check("starved share against the log, points", measured.starved_pct - measured.idle_pct, POINTS),
        *verdict_checks(measured.verdict, truth, bottlenecks(measured, bottleneck)),
    ]


def bottlenecks(measured: Measured, of_slow_loader: str) -> set[str]:
    """The right bottlenecks. Near a threshold there are two.

    Args:
        of_slow_loader: the right one if the loader is slower than the accelerator.
    """
    truth, alone = measured.idle_by_rate_pct, measured.evidence.loader_alone
    assert alone is not None
    allowed = set()
    if truth < PARTLY_FROM_PCT + POINTS:
        allowed.add(COMPUTE)
    if truth >= PARTLY_FROM_PCT - POINTS:
        works_ahead = measured.workers > 0
        if not works_ahead or alone < (1 + RATE_PCT / 100) * measured.requested_rate:
            allowed.add(of_slow_loader)
        if works_ahead and alone > (1 - RATE_PCT / 100) * measured.requested_rate:
            allowed |= set(FAST)
    return allowed


@dataclass(frozen=True)
class Photos:
    """JPEG files that 0, 1 or 2 workers decode, and the requested rate relative to the rate of one worker."""

    workers: int
    speed: float

    @property
    def name(self) -> str:
        return f"photos, {self.workers} workers, {self.speed:g}x the rate of one"

    def checks(self, bench: Bench) -> list[Check]:
        """The comparisons of one run."""
        accelerator = custom(1e3 * BATCH / (self.speed * rate_alone(1, bench)))
        return common_checks(run(photos(self.workers, accelerator, bench), bench.all_probes), DECODE)


@functools.cache
def rate_alone(workers: int, bench: Bench) -> float:
    """The rate of the loader alone on photos, samples/s."""
    rate = run(photos(workers, custom(), bench), bench.loader_alone).evidence.loader_alone
    assert rate is not None
    return rate


def photos(workers: int, accelerator: AcceleratorConfig, bench: Bench) -> Planted:
    """A run on generated JPEG files."""
    num_samples = min(bench.steps, PHOTO_STEPS) * BATCH
    transform = TransformConfig(image_size=224, resize=256)
    config = PhotosData(root=str(bench.folder), num_files=num_samples, num_classes=10, transform=transform)
    spec = data.build(config, lambda *_: None)
    return Planted(spec.train, num_samples, NativeLoader(num_workers=workers), accelerator)


CASES: list[EmulatedCase] = [
    *(Sleeping(*cell) for cell in itertools.product(SAMPLE_MS, WORKERS, HOST_MS)),
    *(Photos(*cell) for cell in itertools.product(PHOTO_WORKERS, PHOTO_SPEEDS)),
]

"""Runs the real loop, loader, meter and probes against an emulated accelerator, and reads the accelerator's own log."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils.data import Dataset

from loaderlab import metrics
from loaderlab.config import AcceleratorConfig, MeasureConfig, NativeLoader
from loaderlab.data.spec import EncodedImages, Split, UserItems
from loaderlab.device.capabilities import EMULATED
from loaderlab.device.cpu import Cpu
from loaderlab.device.emulated import Emulated
from loaderlab.device.timeline import Busy
from loaderlab.diagnosis.evidence import Evidence, RequestedSpeed, Setup
from loaderlab.diagnosis.figures import LoopRecord, evidence_of, figures_of
from loaderlab.diagnosis.verdict import Verdict, grade, judge
from loaderlab.loaders.contract import EpochPlan
from loaderlab.loaders.native import Native
from loaderlab.meter import resources
from loaderlab.meter.phases import StepMeter
from loaderlab.meter.step import Step
from loaderlab.meter.summary import summarize
from loaderlab.probes.inputs import ProbeInputs
from loaderlab.probes.sequence import Probes
from loaderlab.system.machine import available_cores
from loaderlab.training.emulated import EmulatedStep
from loaderlab.training.loop import Observers, Parts, train
from loaderlab.training.step import Progress

BATCH = 32
STEP_MS = 20.0
POINTS = 2.0  # tolerated error of a starved share
STEP_WORK = ("forward", "backward", "optimizer")  # the accelerator's own work in the log; copies are not


@dataclass(frozen=True)
class Check:
    """One comparison of a run with its truth.

    Attributes:
        claim: what is compared.
        error: measured minus expected, in the claim's unit.
        limit: the largest error that is accepted.
        explanation: printed if the error is larger.
    """

    claim: str
    error: float
    limit: float
    explanation: str = ""

    @property
    def passed(self) -> bool:
        return abs(self.error) <= self.limit


@dataclass(frozen=True)
class Planted:
    """A run with a known truth.

    Attributes:
        split: its samples.
        num_samples: in an epoch.
        loader: its settings.
        accelerator: its speed.
        batch: samples per batch.
        epochs: of the run.
    """

    split: Split
    num_samples: int
    loader: NativeLoader
    accelerator: AcceleratorConfig
    batch: int = BATCH
    epochs: int = 1


@dataclass(frozen=True)
class Measured:
    """The result of a run.

    Attributes:
        figures: its metrics.
        setup: of the verdict.
        requested_rate: of the accelerator, samples/s.
        idle_pct: share of the measured window in which the accelerator had no step to do, from its own log.
        cores_used: CPU seconds of all its processes per second of the loop, in the last epoch.
        workers: of the loader.
    """

    figures: dict[str, float]
    setup: Setup
    evidence: Evidence
    verdict: Verdict
    requested_rate: float
    idle_pct: float
    cores_used: float
    workers: int

    @property
    def rate(self) -> float:
        return self.figures[metrics.RATE]

    @property
    def starved_pct(self) -> float:
        return self.figures[metrics.STARVED_PCT]

    @property
    def idle_by_rate_pct(self) -> float:
        """The share of the time in which the accelerator does not work, from the achieved rate alone."""
        return 100 * (1 - self.rate / self.requested_rate)


class SleepingSamples(Dataset[Any]):
    """Samples that each take a planted time without using a core, such as samples from a slow disk.

    `time.sleep` returns about 0.06 ms late here. So the i-th sample of a batch sleeps until i times the planted time after the
    batch began: the delays do not add up, and a batch takes the planted time plus one delay.
    """

    classes = ("a", "b")

    def __init__(self, sample_s: float, num_samples: int, size: int = 4) -> None:
        self._sample_s, self._num_samples, self._sample = sample_s, num_samples, torch.ones(size)

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("only whole batches can be read")

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[torch.Tensor, int]]:
        began = time.perf_counter()
        for number in range(1, len(indices) + 1 if self._sample_s else 1):
            time.sleep(max(0.0, began + number * self._sample_s - time.perf_counter()))
        return [(self._sample, index % 2) for index in indices]


def custom(step_ms: float = STEP_MS, *, host_ms: float = 0.0, **settings: Any) -> AcceleratorConfig:
    """The settings of ``accelerator=custom``."""
    return AcceleratorConfig(name="custom", step_ms=step_ms, host_ms=host_ms, **settings)


def sleeping(
    sample_ms: float,
    workers: int,
    accelerator: AcceleratorConfig,
    steps: int,
    *,
    size: int = 4,
    **options: Any,
) -> Planted:
    """A run whose samples sleep; ``size``: float32 values of a sample."""
    num_samples = steps * BATCH
    split = Split(UserItems(SleepingSamples(sample_ms / 1e3, num_samples, size), False, None, None, 2))
    return Planted(split, num_samples, NativeLoader(num_workers=workers, **options), accelerator)


def run(planted: Planted, probes: MeasureConfig) -> Measured:
    """The result of one run with these probes."""
    torch.set_num_threads(1)
    gc.collect()
    device = Emulated(planted.accelerator, planted.batch)
    plan = EpochPlan(planted.num_samples, planted.batch, False, True)

    def build() -> Native:
        return Native(planted.loader, planted.split, plan, device)

    step = EmulatedStep(device, planted.accelerator, planted.batch)
    parts = Parts(step, build(), None, device)
    meter, loader = StepMeter(device, counters=resources.counters), parts.loader
    setup = Setup(
        loader.capabilities,
        EMULATED,
        available_cores(),
        threads=1,
        batch_size=planted.batch,
        image_files=isinstance(planted.split.source, EncodedImages),
        accelerator=RequestedSpeed(
            title=planted.accelerator.title,
            rate=planted.accelerator.requested_rate(planted.batch),
            host_ms=planted.accelerator.host_ms,
            min_utilization=planted.accelerator.min_utilization,
            is_mlperf=False,
        ),
    )
    all_probes = Probes()
    cpu_s = [0.0]  # after each epoch

    def on_epoch(_: Progress, meter: StepMeter) -> None:
        cpu_s.append(meter.used["cpu_s"])

    try:
        train(
            parts,
            meter,
            Progress(),
            Observers(lambda *_: None, on_epoch),
            epochs=planted.epochs,
            steps=None,
            accumulate=1,
        )
        log = device.timeline.log
        loop = LoopRecord(
            meter.settled,
            max(5, loader.lookahead),  # as a run's measure.warmup_steps=auto
            loader.parallel,
            meter.epochs_ns,
            meter.epoch_ends_ns,
            meter.used,
            cores=available_cores(),
            lookahead=loader.lookahead,
            train_s=meter.epochs_s,
        )
        figures = summarize(loop.window)
        rate, busy_ms = figures[metrics.RATE], figures[metrics.STEP_MS] * (1 - figures[metrics.STARVED_PCT] / 100)
        inputs = ProbeInputs(
            parts, probes, build, planted.split, plan, epoch=0, accumulate=1, rate=rate, busy_ms=busy_ms
        )
        all_probes.run(inputs, lambda *_: None)
    finally:
        parts.loader.close()
    evidence, last_epoch_ns = evidence_of(loop, all_probes.results), meter.epochs_ns[-1]
    return Measured(
        figures=figures_of(loop, all_probes.results, setup),
        setup=setup,
        evidence=evidence,
        verdict=judge(evidence, setup),
        requested_rate=planted.accelerator.requested_rate(planted.batch),
        idle_pct=idle_pct(log, loop.window),
        cores_used=(cpu_s[-1] - cpu_s[-2]) / (last_epoch_ns[1] - last_epoch_ns[0]) * 1e9,
        workers=loader.capabilities.num_processes,
    )


def idle_pct(log: Sequence[Busy], window: Sequence[Step]) -> float:
    """The share of a window in which the accelerator worked on no step, percent.

    It uses only the accelerator's log and the numbers of the window's steps. Steps run one after the other on one stream, and
    all the work of a step lies between the end of the previous step and its own end.
    """
    work = [busy for busy in log if busy.work in STEP_WORK]
    ends_ns = [
        work[last].stop_ns for last in range(2, len(work), 3)
    ]  # of each step: its third piece of work is the last
    numbers = [step.step for step in window]
    busy_ns = sum(busy.stop_ns - busy.start_ns for number in numbers for busy in work[3 * number : 3 * number + 3])
    return 100 * (1 - busy_ns / sum(ends_ns[number] - ends_ns[number - 1] for number in numbers))


def verdict_checks(verdict: Verdict, truth_pct: float, bottlenecks: Set[str]) -> list[Check]:
    """The comparisons of a verdict with the true starved share, and with the right bottlenecks. Near a threshold there are two
    right grades."""
    grades = {grade(max(0.0, truth_pct + points)) for points in (-POINTS, 0.0, POINTS)}
    return [
        Check(claim, actual not in expected, 0, f"expected {' or '.join(sorted(expected))}: {verdict}")
        for claim, actual, expected in (
            ("wrong grade", verdict.grade, grades),
            ("wrong bottleneck", verdict.bottleneck, bottlenecks),
        )
    ]


class Bench:
    """How long the runs of a case are, and what all cases need.

    Args:
        steps: of a run.
        probe_s: length of each probe.
        folder: for generated files.

    Attributes:
        all_probes, loader_alone, no_probes: settings of a run's probes.
    """

    def __init__(self, steps: int, probe_s: float, folder: Path) -> None:
        self.steps, self.probe_s, self.folder = steps, probe_s, folder
        self.all_probes = MeasureConfig(probe_s=probe_s)
        self.loader_alone = MeasureConfig(probe_s=probe_s, ceiling=False, contention=False)
        self.no_probes = MeasureConfig(probe_s=probe_s, ceiling=False, contention=False, loader_alone=False)
        self._batches_ms: dict[tuple[float, int, int], float] = {}

    def batch_ms(self, sample_ms: float, workers: int, size: int = 4) -> float:
        """The measured time of a batch whose samples sleep: from a request to the batch, or between two batches of one worker.

        It is measured without an accelerator, without the meter and without the probes. It is longer than the planted sleep: a
        batch must also be collated and sent, and the caches are cold after a sleep. Without a sleep it is the time that the
        hand-over takes at most.

        Args:
            workers: 0, or any other number for a worker.
            size: float32 values of a sample.
        """
        key = (sample_ms, min(1, workers), size)
        if key not in self._batches_ms:
            self._batches_ms[key] = _batch_ms(sleeping(sample_ms, key[1], custom(), self.steps, size=size))
        return self._batches_ms[key]


def _batch_ms(planted: Planted) -> float:
    plan = EpochPlan(planted.num_samples, planted.batch, False, True)
    with contextlib.closing(Native(planted.loader, planted.split, plan, Cpu())) as loader:
        for epoch in range(2):  # the worker starts in the first one
            times = [time.perf_counter() for _ in loader.epoch(epoch)]
        return 1e3 * (times[-1] - times[0]) / (len(times) - 1)


class EmulatedCase(Protocol):
    """A case with a known truth."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    def checks(self, bench: Bench) -> list[Check]:
        """The comparisons of one repeat."""
        ...

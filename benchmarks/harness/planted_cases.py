"""Plants causes of starvation in the real loop in real time: sleeps in the loader, the copy, the model and the optimizer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from loaderlab import metrics
from loaderlab.config import AdamWOptimizer, MeasureConfig, NativeLoader, PrecisionConfig
from loaderlab.data.spec import Split, UserItems
from loaderlab.device.capabilities import CPU
from loaderlab.device.cpu import Cpu
from loaderlab.diagnosis.advice import threads_to_probe
from loaderlab.diagnosis.evidence import Setup
from loaderlab.diagnosis.figures import LoopRecord, evidence_of, figures_of
from loaderlab.diagnosis.verdict import Verdict, judge
from loaderlab.loaders.contract import Batch, EpochPlan
from loaderlab.loaders.native import Native
from loaderlab.meter.phases import StepMeter
from loaderlab.meter.summary import summarize
from loaderlab.probes.inputs import ProbeInputs
from loaderlab.probes.sequence import Probes
from loaderlab.system.machine import available_cores
from loaderlab.training import optimizers
from loaderlab.training.loop import Observers, Parts, train
from loaderlab.training.precision import Precision
from loaderlab.training.step import ModelStep, Progress

BATCH = 4
POINTS = 3.0  # tolerated error of a starved share
Truth = Callable[[float], float]  # from the length of the step without a loader, in seconds, to the starved share in %


@dataclass(frozen=True)
class Case:
    """A planted cause. All times are in seconds.

    Attributes:
        truth: the starved share that follows from the case and from the length of the step, which the ceiling probe
            measures without a loader; None if it does not follow from known quantities.
    """

    name: str
    truth: Truth | None
    grade: str | tuple[str, ...]
    bottleneck: str | tuple[str, ...]
    prepare: Callable[[int], float] = lambda _: 0.0  # time of the n-th batch that a worker makes
    workers: int = 0
    transfer: float = 0.0
    forward: float = 0.060  # 100 ms with the next two: the hand-over of a batch takes one or two milliseconds
    backward: float = 0.030
    optimizer: float = 0.010
    steps: int = 50  # in an epoch
    epochs: int = 1
    start: float = 0.0  # time until a worker is ready
    burn: bool = False  # compute instead of sleeping
    batch: int = BATCH  # all times above are for BATCH samples and grow with the batch
    matmul: bool = False  # instead of sleeping, the step computes with all threads that the workers leave free
    options: dict[str, Any] = field(default_factory=dict)

    def is_named_by(self, verdict: Verdict) -> bool:
        """Whether a verdict has the grade and the bottleneck that were planted."""
        return verdict.grade in self.grade and (
            verdict.bottleneck == self.bottleneck or verdict.bottleneck in tuple(self.bottleneck)
        )


def alone(prepare: float) -> Truth:
    """The share if no batch is made ahead: the step waits while its batch is made."""
    return lambda step: 100 * prepare / (prepare + step)


def ahead(prepare: float, workers: int) -> Truth:
    """The share if the workers make a batch every ``prepare / workers`` seconds."""
    return lambda step: 100 * max(0.0, 1 - step * workers / prepare)


def onset(prepare: float, before: int, after: int) -> Truth:
    """The share if only the steps ``after`` the onset wait."""
    return lambda step: 100 * after * prepare / ((before + after) * step + after * prepare)


CASES = [
    Case("sleep in the loader, no worker", alone(0.100), "starved", "storage", lambda _: 0.100),
    Case("sleep in the loader, 1 worker", ahead(0.060, 1), "fed", "device compute", lambda _: 0.060, 1),
    Case("more sleep, 1 worker", ahead(0.300, 1), "starved", "storage", lambda _: 0.300, 1),
    Case("more sleep, 2 workers", ahead(0.400, 2), "starved", "storage", lambda _: 0.400, 2, steps=51),
    Case("slow copy", alone(0.050), "starved", "host-to-device copy", lambda _: 0.010, 1, transfer=0.050),
    Case("heavy model", ahead(0.100, 1), "fed", "device compute", lambda _: 0.100, 1, forward=0.210, steps=30),
    Case("slow optimizer", ahead(0.100, 1), "fed", "device compute", lambda _: 0.100, 1, optimizer=0.210, steps=30),
    Case("stall every 10th batch", alone(0.100), "starved", "storage", lambda i: 1.0 if i % 10 == 9 else 0.0, steps=65),
    Case(
        "onset after 100 steps",
        onset(0.100, 95, 50),
        "starved",
        "storage",
        lambda i: 0.100 if i >= 100 else 0.0,
        steps=150,
    ),
    Case(
        "epoch gap",
        ahead(0.020, 1),
        "starved",
        "epoch gap",
        lambda _: 0.020,
        1,
        steps=12,
        epochs=4,
        start=0.8,
        options={"persistent_workers": False},
    ),
    Case(
        "loader eats the step's cores",
        None,
        ("fed", "partly starved", "starved"),
        "interference",
        lambda _: 0.320,
        2,
        forward=0.120,
        backward=0.060,
        optimizer=0.020,
        steps=40,
        burn=True,
    ),
]

# bottlenecks of a loader that is fast enough: neither disk nor decoding
DELIVERY = ("device compute", "batch hand-over", "uneven batches", "start of each epoch")
SHORT: dict[str, Any] = {
    "forward": 0.012,
    "backward": 0.006,
    "optimizer": 0.002,
    "steps": 150,
}  # 20 ms: short enough for a hand-over to show
FAST = [  # loaders that are faster than the step
    Case("fast loader, no worker", alone(0.010), ("partly starved", "starved"), "storage", lambda _: 0.010, 0, **SHORT),
    Case("fast loader, 1 worker", None, ("fed", "partly starved"), DELIVERY, lambda _: 0.012, 1, **SHORT),
    Case("fast loader, 2 workers", None, ("fed", "partly starved"), DELIVERY, lambda _: 0.020, 2, **SHORT),
    Case("fast loader, 4 workers", None, ("fed", "partly starved"), DELIVERY, lambda _: 0.032, 4, **SHORT),
]
FOLLOWED = [  # cases whose advice is followed; the last five do not need more workers
    Case("0 workers, 40 ms", alone(0.040), "starved", "storage", lambda _: 0.040),
    Case("0 workers, 80 ms", alone(0.080), "starved", "storage", lambda _: 0.080),
    Case("0 workers, 150 ms", alone(0.150), "starved", "storage", lambda _: 0.150),
    Case("0 workers, 300 ms", alone(0.300), "starved", "storage", lambda _: 0.300),
    Case(
        "0 workers, 10 ms before 20 ms",
        alone(0.010),
        ("partly starved", "starved"),
        "storage",
        lambda _: 0.010,
        0,
        **SHORT,
    ),
    Case("1 worker, 150 ms", ahead(0.150, 1), "starved", "storage", lambda _: 0.150, 1),
    Case("1 worker, 300 ms", ahead(0.300, 1), "starved", "storage", lambda _: 0.300, 1),
    Case("2 workers, 250 ms", ahead(0.250, 2), "starved", "storage", lambda _: 0.250, 2, steps=51),
    Case("2 workers, 400 ms", ahead(0.400, 2), "starved", "storage", lambda _: 0.400, 2, steps=51),
    Case("4 workers, 600 ms", ahead(0.600, 4), "starved", "storage", lambda _: 0.600, 4, steps=61),
    Case(
        "0 workers, step of two threads",
        None,
        "starved",
        "storage",
        lambda _: 0.080,
        matmul=True,
        forward=0,
        backward=0,
    ),
    Case(
        "late batches, 1 worker",  # fast enough on average: in ten steps of 20 ms, nine batches take 5 ms and one 110 ms
        None,
        ("partly starved", "starved"),
        "uneven batches",
        lambda i: 0.110 if i % 10 == 9 else 0.005,
        1,
        **SHORT,
    ),
    *FAST[1:],
]


def spend(seconds: float, burn: bool) -> None:
    """Sleeps, or computes an amount that takes this long on an idle core."""
    if not burn:
        time.sleep(seconds)
        return
    for _ in range(round(seconds * BURNS_PER_S)):
        _burn()


def _burn() -> None:
    sum(range(2000))


def burns_per_s() -> float:
    """The speed of this core."""
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < 0.3:
        _burn()
        count += 1
    return count / 0.3


BURNS_PER_S = burns_per_s()
MATMULS, SQUARE = 6, torch.ones(1024, 1024)


class Samples(Dataset[Any]):
    """A data set whose batches take the planted time."""

    classes = ("a", "b")

    def __init__(self, case: Case) -> None:
        self._case, self._made = case, 0

    def __len__(self) -> int:
        return self._case.steps * self._case.batch

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("only whole batches can be read")

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[torch.Tensor, int]]:
        case = self._case
        if self._made == 0 and torch.utils.data.get_worker_info() is not None:
            time.sleep(case.start)
        for _ in range(case.batch // BATCH):
            spend(case.prepare(self._made), case.burn)
            self._made += 1
        return [(torch.ones(4), index % 2) for index in indices]


class SlowCopy(Native):
    """The native loader with a planted time of the copy."""

    copy_s = 0.0

    def transfer(self, batch: Batch) -> Batch:
        time.sleep(self.copy_s)
        return super().transfer(batch)


class Planted(torch.autograd.Function):
    """The identity, with a planted time forward and backward."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, forward_s: float, backward_s: float, burn: bool) -> torch.Tensor:
        ctx.backward_s, ctx.burn = backward_s, burn
        spend(forward_s, burn)
        return inputs.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        spend(ctx.backward_s, ctx.burn)
        return gradients[0], None, None, None


class Model(nn.Module):
    """A small model with the planted times of a case."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self._case, self._first, self._last = case, nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        case = self._case
        if case.matmul:
            for _ in range(case.batch // BATCH * MATMULS):
                torch.mm(SQUARE, SQUARE)
        times = case.batch / BATCH
        hidden: torch.Tensor = Planted.apply(
            self._first(inputs), times * case.forward, times * case.backward, case.burn
        )
        outputs: torch.Tensor = self._last(hidden)
        return outputs


def run(case: Case) -> tuple[dict[str, float], Verdict]:
    """The metrics and the verdict of one run of a case."""
    device = Cpu()
    cores = available_cores()
    threads = max(1, cores - case.workers) if case.matmul else 1
    torch.set_num_threads(threads)
    dataset = Samples(case)
    split = Split(UserItems(dataset, False, None, None, 2))
    plan = EpochPlan(
        len(dataset), case.batch, False, True
    )  # not shuffled: planted batches are identified by their number
    config = NativeLoader(num_workers=case.workers, **case.options)

    def build() -> Native:
        loader = SlowCopy(config, split, plan, device)
        loader.copy_s = case.transfer
        return loader

    model = Model(case)
    optimizer, schedule = optimizers.build(AdamWOptimizer(schedule="constant"), model, None)
    optimizer.register_step_pre_hook(lambda *_: spend(case.batch / BATCH * case.optimizer, case.burn))
    step = ModelStep(model, optimizer, schedule, Precision(PrecisionConfig(name="fp32"), device))
    parts = Parts(step, build(), None, device)
    meter, parallel = StepMeter(device), parts.loader.parallel
    setup = Setup(parts.loader.capabilities, CPU, cores, threads, batch_size=case.batch, auto_threads=case.matmul)
    try:
        train(
            parts,
            meter,
            Progress(),
            Observers(lambda *_: None, lambda *_: None),
            epochs=case.epochs,
            steps=None,
            accumulate=1,
        )
        loop = LoopRecord(meter.settled, 5, parallel, meter.epochs_ns, meter.epoch_ends_ns, meter.used, cores=cores)
        figures = summarize(loop.window)
        rate, busy_ms = figures[metrics.RATE], figures[metrics.STEP_MS] * (1 - figures[metrics.STARVED_PCT] / 100)
        probes = Probes()
        inputs = ProbeInputs(
            parts, MeasureConfig(probe_s=2.0), build, split, plan, epoch=0, accumulate=1, rate=rate, busy_ms=busy_ms
        )
        probes.run(inputs, lambda *_: None)
        if (other_threads := threads_to_probe(evidence_of(loop, probes.results), setup)) is not None:
            probes.run_ceiling(inputs, other_threads)
    finally:
        parts.loader.close()
    return figures_of(loop, probes.results, setup), judge(evidence_of(loop, probes.results), setup)

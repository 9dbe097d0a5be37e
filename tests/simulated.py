"""A training loop in simulated time with a loader, a host and a device; all true values are known to the nanosecond.

The real `StepMeter` measures it with the simulation's clock. The loader's makers work like the workers of a DataLoader: maker
i % n makes batch i, and at most ``prefetch`` of its batches wait for the step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from loaderlab.device.capabilities import CPU, DeviceCapabilities
from loaderlab.device.cpu import Cpu
from loaderlab.device.step_times import DeviceStep
from loaderlab.diagnosis.evidence import Setup
from loaderlab.diagnosis.figures import LoopRecord, evidence_of
from loaderlab.diagnosis.verdict import Verdict, judge
from loaderlab.loaders.capabilities import Copying, LoaderCapabilities, Makers
from loaderlab.meter.phases import StepMeter
from loaderlab.meter.rates import LoaderRate, ProbeResults, Rate
from loaderlab.meter.step import Step
from loaderlab.meter.summary import summarize

CUDA = DeviceCapabilities(
    asynchronous=True, uses_host_cores=False, takes_copies=True, decodes_images=True, fast_bf16=False
)
MS = 1_000_000
BATCH = 10


@dataclass
class Loop:
    """The parts of a simulated loop; times in ms.

    Attributes:
        prepare: the time that one maker needs for batch i; with ``workers`` 0, the host makes it.
        start: the time to start the makers, in each epoch.
        slowed: the factor by which the loader slows the step when both run.
        busy: the share of its time per batch that a maker computes.
    """

    prepare: Callable[[int], float]
    workers: int = 0
    prefetch: int = 2
    transfer: float = 0.0
    forward: float = 4.0
    backward: float = 4.0
    optimizer: float = 2.0
    steps: int = 200
    epochs: int = 1
    start: float = 0.0
    slowed: float = 1.0
    busy: float = 1.0
    stages: dict[str, float] = field(default_factory=lambda: {"prepare": 1.0, "collate": 0.0})

    @property
    def step(self) -> float:
        """The time of an undisturbed step without data wait."""
        return self.transfer + self.forward + self.backward + self.optimizer

    def ready(self, taken: list[float], begun: float) -> float:
        """The time at which the batch after those taken is ready."""
        index = len(taken)
        makers = max(1, self.workers)
        if self._free is None or index == 0:
            self._free = [begun + self.start] * makers
        ahead = makers * self.prefetch
        requested_ms = taken[index - ahead] if index >= ahead else begun
        maker = index % makers
        self._free[maker] = max(self._free[maker], requested_ms) + self.prepare(index)
        return self._free[maker]

    _free: list[float] | None = None


class Clock:
    def __init__(self) -> None:
        self.ms = 1000.0

    def __call__(self) -> int:
        return round(self.ms * MS)


def play(loop: Loop) -> StepMeter:
    """Plays the loop on a CPU, where host and device share one clock."""
    clock = Clock()
    meter = StepMeter(Cpu(), clock)
    for epoch in range(loop.epochs):
        meter.begin_epoch(epoch)
        begun, taken = clock.ms, list[float]()
        for index in range(loop.steps):
            meter.next_step()
            if loop.workers:
                clock.ms = max(clock.ms, loop.ready(taken, begun))
            else:
                clock.ms += loop.prepare(index) + (loop.start if index == 0 else 0.0)
            taken.append(clock.ms)
            meter.mark()
            for phase in (loop.transfer, loop.forward, loop.backward):
                clock.ms += phase * loop.slowed
                meter.mark()
            clock.ms += loop.optimizer * loop.slowed
            meter.end_step(BATCH, torch.zeros(()))
        meter.next_step()
        meter.end_epoch()
    return meter


def play_cuda(loop: Loop, *, host: float = 1.0, side_stream: Callable[[int], float] = lambda _: 0.0) -> StepMeter:
    """Plays the loop on a separate device that the host runs ahead of.

    Queueing a step takes the host ``host`` ms. When the host has a batch, another stream of the device still needs
    ``side_stream`` ms to finish it.
    """
    meter = play(Loop(loop.prepare, steps=0))
    now = done = 1000.0
    taken = list[float]()
    ends = [now]
    for index in range(loop.steps):
        requested_ms = now
        now = max(now, loop.ready(taken, 1000.0)) if loop.workers else now + loop.prepare(index)
        taken.append(now)
        ready = max(done, now)
        usable = max(ready, now + side_stream(index)) + loop.transfer
        end = usable + loop.forward + loop.backward + loop.optimizer
        host_ns = (round((now - requested_ms) * MS), 0, round(host * MS), 0, 0)
        timed = DeviceStep(ready - done, usable - ready, loop.forward, loop.backward, loop.optimizer, 0.0)
        step = Step(0, index, index, BATCH, host_ns, device=timed, drained=done <= now)
        meter.steps.append(step)
        now, done = now + host, end
        ends.append(done)
    meter.epochs_ns = [(round(1000 * MS), round(max(now, done) * MS))]
    meter.epoch_ends_ns = [round(max(0.0, done - now) * MS)]
    return meter


def loader(workers: int, **changes: Any) -> LoaderCapabilities:
    """The capabilities of a loader with worker processes, whole batches in pageable memory, and new workers in each epoch."""
    base = LoaderCapabilities(
        makers=Makers(workers, "loader.num_workers", are_processes=True, whole_batches=True),
        lookahead=2 * workers,
        parallel=max(1, workers),
        copying=Copying(pin_memory=False, non_blocking=False, side_stream=None),
        keeps_makers=False,
        decode_on_device=("loader", "dali"),
        keep_on_device=("loader", "resident"),
    )
    return replace(base, **changes)


def setup(loop: Loop, device: DeviceCapabilities = CPU, **changes: Any) -> Setup:
    """The loop's setup on 8 cores."""
    base = Setup(loader(loop.workers), device, cores=8, threads=1, batch_size=BATCH)
    return replace(base, **changes)


def record(meter: StepMeter, warmup_steps: int, parallel: int, **more: Any) -> LoopRecord:
    """The meter's record as a run on 2 cores uses it."""
    base = LoopRecord(meter.settled, warmup_steps, parallel, meter.epochs_ns, meter.epoch_ends_ns, meter.used, cores=2)
    return replace(base, **more)


def probed(loop: Loop) -> ProbeResults:
    """The exact results of the probes for this loop."""
    ceiling = 1e3 * BATCH / loop.step
    mean = sum(loop.prepare(index) for index in range(loop.steps)) / loop.steps
    makers = max(1, loop.workers)
    alone = 1e3 * BATCH * makers / (mean + loop.transfer) if mean + loop.transfer else 1e9
    return ProbeResults(
        ceiling=Rate(ceiling),
        loader_alone=LoaderRate(alone, makers * loop.busy),
        contended=Rate(ceiling / loop.slowed) if loop.workers else None,
        stages={name: share * mean / 1e3 / BATCH for name, share in loop.stages.items()},
    )


def measure(loop: Loop, meter: StepMeter, given: Setup) -> tuple[dict[str, float], Verdict]:
    """The metrics and the verdict that a run would compute."""
    loop_record = record(meter, 10, given.loader.parallel)
    return summarize(loop_record.window), judge(evidence_of(loop_record, probed(loop)), given)

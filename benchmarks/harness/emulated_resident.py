"""The speed and the own cost of an emulated accelerator whose batches are already in memory."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.harness.emulated_runs import BATCH, Bench, Check, EmulatedCase, custom
from loaderlab import metrics
from loaderlab.config import AcceleratorConfig
from loaderlab.device.emulated import Emulated
from loaderlab.loaders.contract import Batch
from loaderlab.meter.phases import StepMeter
from loaderlab.meter.summary import measured, summarize
from loaderlab.probes.ceiling import WARMUP_STEPS, CycledBatches
from loaderlab.training.emulated import EmulatedStep
from loaderlab.training.loop import Observers, Parts, train
from loaderlab.training.step import Progress

STEPS_MS = (1, 2, 5, 20, 50, 200)
RATE_PCT = 1.0  # tolerated error of the rate
CORE_PCT = 3.0  # tolerated CPU time of the emulation
MIN_STEPS = 30


class Timed(EmulatedStep):
    """Adds up the CPU time of the emulation: its calls, with the kernel's part of its sleeps. The meter and the loop are not
    part of it."""

    def __init__(self, device: Emulated, accelerator: AcceleratorConfig, batch_size: int) -> None:
        super().__init__(device, accelerator, batch_size)
        self.cpu_ns = 0

    def forward(self, batch: Batch, *, updates: bool = True) -> None:
        self._timed(super().forward, batch, updates=updates)

    def backward(self, loss: object, size: int, *, updates: bool) -> None:
        self._timed(super().backward, loss, size, updates=updates)

    def update(self) -> bool:
        self._timed(super().update)
        return True

    def end(self) -> None:
        self._timed(super().end)
        began = time.thread_time_ns()  # a reading is a system call of about 1 us: not part of the emulation
        self.cpu_ns -= 4 * (time.thread_time_ns() - began)

    def _timed(self, call: Callable[..., object], *arguments: Any, **options: Any) -> None:
        began = time.thread_time_ns()
        call(*arguments, **options)
        self.cpu_ns += time.thread_time_ns() - began


@dataclass(frozen=True)
class Resident:
    """A step length."""

    step_ms: float

    @property
    def name(self) -> str:
        return f"batches in memory, steps of {self.step_ms:g} ms"

    def checks(self, bench: Bench) -> list[Check]:
        """The comparisons of one run. No copy is needed, as with a perfect loader."""
        torch.set_num_threads(1)
        gc.collect()  # a full collection in the loop takes 0.1 s here, 3.6 % of a run with steps of 1 ms
        accelerator = custom(self.step_ms)
        device = Emulated(accelerator, BATCH)
        step = Timed(device, accelerator, BATCH)
        batch = Batch(torch.ones(BATCH, 4), torch.zeros(BATCH, dtype=torch.int64), None)
        until = time.perf_counter() + max(2 * bench.probe_s, MIN_STEPS * self.step_ms / 1e3)
        parts = Parts(step, CycledBatches([batch], lambda: time.perf_counter() > until), None, device)
        meter = StepMeter(device)
        began = time.thread_time_ns()
        train(
            parts,
            meter,
            Progress(),
            Observers(lambda *_: None, lambda *_: None),
            epochs=1,
            steps=None,
            accumulate=1,
        )
        loop_pct = (time.thread_time_ns() - began) / meter.epochs_s / 1e7
        rate = summarize(measured(meter.settled, WARMUP_STEPS))[metrics.RATE]
        requested = accelerator.requested_rate(BATCH)
        core_pct = step.cpu_ns / meter.epochs_s / 1e7
        return [
            Check("rate of batches in memory, %", 100 * (rate / requested - 1), RATE_PCT, f"{rate:,.1f} samples/s"),
            Check(
                "CPU time of the emulation, % of a core",
                core_pct,
                CORE_PCT,
                f"{core_pct:.2f} % of a core; the loop with its meter uses {loop_pct:.2f} %",
            ),
        ]


CASES: list[EmulatedCase] = [Resident(step_ms) for step_ms in STEPS_MS]

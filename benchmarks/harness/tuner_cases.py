"""Planted cases of the tuner: the cheapest settings that feed the device are known by construction. Pure.

The cycle of a step follows from the contract of the emulated accelerator (step s, CPU time of the host per step h) and the time b
of a batch: without workers max(s, b + h), with n workers max(s, h, b / n), and at least the CPU time of all processes per batch / the
number of cores. The device is starved for 1 - s / cycle, and fed below 5 %. All cases are for two cores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BATCH, STEP_MS, HOST_MS, CORES = 16, 20.0, 2.0, 2
MAX_STARVED_PCT = 5.0
MODULE = "benchmarks.harness.tuner_data"
DEEP = (2, 4, 8)  # the values of prefetch that are tried


@dataclass(frozen=True)
class TunerCase:
    """A planted case.

    Attributes:
        load: arguments of `benchmarks.harness.tuner_data.PlantedBatches`.
        makers: the fewest workers that feed the device; None if nothing does.
        prefetch: the least of `DEEP` that feeds it with so many workers.
        fastest: if nothing feeds the device: the numbers of workers that are as fast as any other.
        current: number of workers before tuning.
        limit: of the number of workers, ``tune.max_makers``.
        memory_mib: limit of the loader's memory; it allows ``limit_of_memory`` workers.
        host_ms: CPU time of the training process per step.
        steps_ahead: steps that the host may be ahead of the accelerator.
        is_emulated: the step is that of an emulated accelerator; otherwise it uses a core for `STEP_MS`.
    """

    name: str
    load: Mapping[str, Any]
    makers: int | None
    prefetch: int = 2
    fastest: tuple[int, ...] = ()
    current: int = 2
    limit: int = 4
    memory_mib: int | None = None
    limit_of_memory: int | None = None
    host_ms: float = HOST_MS
    steps_ahead: int = 4
    is_emulated: bool = True

    @property
    def most_makers(self) -> int:
        """The largest number of workers that no limit forbids."""
        return self.limit if self.limit_of_memory is None else min(self.limit, self.limit_of_memory)

    def cycle_ms(self, makers: int) -> float:
        """The time between two steps, without jitter."""
        load = {name: float(value) for name, value in self.load.items()}
        crowd_ms = load.get("crowd_ms", 0.0) * max(makers, 1) ** 4
        cpu_ms, locked_ms = load.get("cpu_ms", 0.0), load.get("locked_ms", 0.0)
        batch_ms = load.get("sleep_ms", 0.0) + cpu_ms + locked_ms + crowd_ms
        host_ms = self.host_ms if self.is_emulated else STEP_MS  # a step that computes is the host's work
        if not makers:
            return max(STEP_MS, batch_ms + host_ms)
        return max(STEP_MS, host_ms, batch_ms / makers, locked_ms, (cpu_ms + host_ms) / CORES)

    def overrides(self) -> list[str]:
        """The settings of a run, without those that the tuner may choose."""
        options = {"batch_size": BATCH, **self.load}
        return [
            "data=custom",
            f"data.target={MODULE}:PlantedBatches",
            "data.num_classes=2",
            *(f"+data.options.{name}={value:g}" for name, value in options.items()),
            f"batch_size={BATCH}",
            *(self._emulated() if self.is_emulated else self._computed()),
        ]

    def tuned(self, minutes: float) -> list[str]:
        """The settings of a search."""
        limits = [] if self.memory_mib is None else [f"tune.memory_mib={self.memory_mib}"]
        search = ["tune.backends=[native]", f"tune.max_makers={self.limit}", f"tune.minutes={minutes:g}", *limits]
        return [*self.overrides(), f"loader.num_workers={self.current}", *search]

    def _emulated(self) -> list[str]:
        return [
            "accelerator=custom",
            f"accelerator.step_ms={STEP_MS:g}",
            f"accelerator.host_ms={self.host_ms:g}",
            f"accelerator.steps_ahead={self.steps_ahead}",
        ]

    def _computed(self) -> list[str]:
        return [
            "model=custom",
            f"model.target={MODULE}:PlantedModel",
            f"+model.options.cpu_ms={STEP_MS:g}",
            "device=cpu",
            "evaluate=false",
        ]


CASES = [
    # b + h = 8 + 2 = 10 < 20
    TunerCase("sleep, 0 workers", {"sleep_ms": 8}, makers=0),
    # 0: 15 + 10 = 25, starved 20 %; 1: 15 < 20
    TunerCase("sleep, 1 worker", {"sleep_ms": 15}, makers=1, host_ms=10),
    # 1: 30, starved 33 %; 2: 15 < 20
    TunerCase("sleep, 2 workers", {"sleep_ms": 30}, makers=2, current=1),
    # 2: 48 / 2 = 24, starved 17 %; 3: 16 < 20
    TunerCase("already fed", {"sleep_ms": 48}, makers=3, current=6, limit=6),
    # 3: 70 / 3 = 23.3, starved 14 %; 4: 17.5 < 20
    TunerCase("sleep, 4 workers", {"sleep_ms": 70}, makers=4, current=0, limit=6),
    # 0: 14 + 10 = 24, starved 17 %; 1: 14 < 20, and the CPU time (14 + 10) / 2 = 12 < 20
    TunerCase("CPU-bound", {"cpu_ms": 14}, makers=1, host_ms=10),
    # 1: 60; 2 and more: the CPU time (60 + 2) / 2 = 31, starved 35 %
    TunerCase("more cores than there are", {"cpu_ms": 60}, makers=None, fastest=(2, 3, 4)),
    # 1: 11 + 16 = 27, starved 26 %; 2: the lock, 16 > 27 / 2, and 16 < 20; more are not faster
    TunerCase("lock", {"sleep_ms": 11, "locked_ms": 16}, makers=2, current=4),
    # b = 26.4 + 0.6 n^4. 1: 27, starved 26 %; 2: 36 / 2 = 18 < 20; 3: 75 / 3 = 25, starved 20 %; 4: 180 / 4 = 45
    TunerCase("rises, then falls", {"sleep_ms": 26.4, "crowd_ms": 0.6}, makers=2, current=4),
    # 2: 50 / 2 = 25, starved 20 %; 3 would feed it, 50 / 3 = 16.7, but need at least 3 x 600 MiB
    TunerCase(
        "memory for two",
        {"sleep_ms": 50, "worker_mib": 600},
        makers=None,
        fastest=(2,),
        memory_mib=1700,
        limit_of_memory=2,
    ),
    # The step itself uses a core for 20 ms. 0: 12 + 20 = 32, starved 37 %; 1: 12 < 20, and the CPU time (12 + 20) / 2 = 16 < 20
    TunerCase("step that needs the cores", {"cpu_ms": 12}, makers=1, is_emulated=False, current=0),
    # Every 16th batch takes 6 + 150 = 156 ms, the mean 15.4 < 20. Queued batches and the 2 steps ahead cover the long one for
    # (prefetch + 2) x 20 ms: 80 with 2 (starved (156 - 80) / (320 + 76) = 19 %), 120 with 4 (36 / 356 = 10 %), 200 with 8.
    # Without workers the 2 steps ahead cover 40: 116 / 436 = 27 %. Between two long batches, 15 short ones take 90 ms, in
    # which the step takes 5 batches, so the queue is full again.
    TunerCase("jitter", {"sleep_ms": 6, "long_ms": 150, "every": 16}, makers=1, prefetch=8, steps_ahead=2, current=1),
]
BY_NAME = {case.name: case for case in CASES}

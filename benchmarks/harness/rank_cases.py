"""Planted jobs of several ranks on emulated accelerators: what slows each down, and by how much, is known by construction.

The loaders have no workers, so a rank's cycle is its fetch and the host's time to queue a step. Hosts meet at each all-reduce, and
the slowest cycle or the slowest device decides: T = max over ranks of (fetch + host), or max over ranks of the step + the
all-reduce. The job's lost share is 1 - (max step + all-reduce) / T.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset

BATCH, STEP_MS, HOST_MS, ALLREDUCE_MS = 16, 30.0, 1.0, 2.0
NUM_STEPS, EVERY = 120, 4
FAST_MS, SLOW_MS, LONG_MS = 4.0, 55.0, 70.0
BYTES = 100_000  # of a sample of a small shard
LOADER, DEVICE, MOVING = "loader", "device", "moving"


@dataclass(frozen=True)
class RankCase:
    """A planted job.

    Attributes:
        kind: of its samples: see `PlantedBatches` and `PlantedShard`.
        slowdown: of the ranks' devices.
        cause, rank: of the straggler; empty and None without one.
        cycle_ms: T with these ranks.
        word: must occur in the verdict.
    """

    name: str
    kind: str = "fed"
    slowdown: Sequence[float] = ()
    cause: str = ""
    rank: int | None = None
    cycle_ms: float = STEP_MS + ALLREDUCE_MS
    word: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def lost_pct(self) -> float:
        """The job's lost share."""
        return 100 * max(0.0, 1 - self.step_ms / max(self.cycle_ms, self.step_ms))

    @property
    def step_ms(self) -> float:
        """The step of the slowest device, with the all-reduce."""
        return STEP_MS * max(self.slowdown, default=1.0) + ALLREDUCE_MS

    def overrides(self, num_ranks: int) -> list[str]:
        """The settings of its run."""
        target = "PlantedShard" if self.kind == "shard" else "PlantedBatches"
        slowdown = ",".join(f"{factor:g}" for factor in self.slowdown)
        return [
            "data=custom",
            f"data.target=benchmarks.harness.rank_cases:{target}",
            "data.num_classes=2",
            *(["data.sharded=true"] if self.kind == "shard" else []),
            f"+data.options.kind={self.kind}",
            f"+data.options.num_ranks={num_ranks}",
            "accelerator=custom",
            f"accelerator.step_ms={STEP_MS:g}",
            f"accelerator.host_ms={HOST_MS:g}",
            f"accelerator.allreduce_ms={ALLREDUCE_MS:g}",
            "accelerator.steps_ahead=2",
            f"accelerator.rank_slowdown=[{slowdown}]",
            f"batch_size={BATCH}",
            f"steps={NUM_STEPS}",
            "loader.num_workers=0",
            "measure.ceiling=false",
            "measure.contention=false",
            "measure.probe_s=0.5",
            "launch=local",
            f"launch.num_ranks={num_ranks}",
        ]


def cases(num_ranks: int) -> list[RankCase]:
    """The planted jobs with so many ranks, at least two."""
    last = num_ranks - 1
    starved_ms = SLOW_MS + HOST_MS
    slow_device = [1.0] * last + [1.5]
    return [
        RankCase("one slow loader", "slow", (), LOADER, 1, starved_ms, "loader alone"),
        RankCase("a slow loader that moves", "moving", (), MOVING, None, starved_ms),
        RankCase("one larger shard", "shard", (), LOADER, 1, starved_ms, "share of the samples"),
        RankCase("one slow device", "fed", slow_device, DEVICE, last),
        RankCase("a wait of a fast rank that costs nothing", "long", [0.6, *[1.0] * (last - 1), 1.05], DEVICE, last),
        RankCase("all fed"),
    ]


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


class PlantedBatches(Dataset[tuple[torch.Tensor, int]]):
    """Samples whose batches take a planted time.

    Args:
        kind: fed; slow: rank 1 is slow in every step; moving: another rank is slow in each step; long: rank 0 takes long for every
            fourth batch.
    """

    def __init__(self, kind: str, num_ranks: int) -> None:
        self._kind, self._num_ranks, self._calls = kind, num_ranks, 0

    def __len__(self) -> int:
        return BATCH * self._num_ranks * (NUM_STEPS + 10)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(4), 0

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, int]]:
        sleep_ms(self._fetch_ms())
        return [self[index] for index in indices]

    def _fetch_ms(self) -> float:
        self._calls += 1
        match self._kind:
            case "slow":
                return SLOW_MS if _rank() == 1 else FAST_MS
            case "moving":
                return SLOW_MS if self._calls % self._num_ranks == _rank() else FAST_MS
            case "long":
                return LONG_MS if _rank() == 0 and self._calls % EVERY == 0 else FAST_MS
        return FAST_MS


class PlantedShard(IterableDataset[tuple[torch.Tensor, int]]):
    """A stream that divides itself among the ranks. The samples of rank 1 have more bytes, and take longer in proportion.

    Attributes:
        shard_bytes: of this rank's samples.
    """

    def __init__(self, kind: str, num_ranks: int) -> None:
        factor = SLOW_MS / FAST_MS if _rank() == 1 else 1.0
        self._count = BATCH * (NUM_STEPS + 10)
        self._sample_ms = factor * FAST_MS / BATCH
        self.shard_bytes = self._count * factor * BYTES

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        for index in range(self._count):
            if index % BATCH == 0:
                sleep_ms(BATCH * self._sample_ms)
            yield torch.full((4,), float(_rank())), 0


def sleep_ms(duration_ms: float) -> None:
    """Sleeps for a time, without the error of one long sleep."""
    until = time.perf_counter() + duration_ms / 1e3
    while (left := until - time.perf_counter()) > 0:
        time.sleep(left)

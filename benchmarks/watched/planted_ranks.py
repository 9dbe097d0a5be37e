"""A training on several ranks whose waits and computations take planted times: torchrun … planted_ranks.py --case loader.

Each rank measures itself by its own clock: the wait around ``next``, its own work up to the last call of its communication hook, and the
end of backward. That is independent of loaderlab, which uses no communication hook.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

Times = tuple[float, float]  # of a step: ms of waiting and of computing
SLOW = 1  # the slow rank


def _moving(rank: int, ranks: int, step: int) -> Times:
    return (9.0 if random.Random(step).randrange(ranks) == rank else 1.0), 10.0


CASES: dict[str, Callable[[int, int, int], Times]] = {  # from rank, number of ranks and step
    "fed": lambda rank, ranks, step: (0.0, 10.0),
    "loader": lambda rank, ranks, step: (9.0 if rank == SLOW else 1.0, 10.0),
    "shard": lambda rank, ranks, step: (14.0 if rank == SLOW else 8.0, 10.0),
    "device": lambda rank, ranks, step: (0.0, 15.0 if rank == SLOW else 10.0),
    "moving": _moving,
    "unequal": lambda rank, ranks, step: (0.0, 15.0) if rank == 0 else (4.0, 10.5),
}


class Samples(Dataset[torch.Tensor]):
    """Batches of one sample, each of which takes the planted wait."""

    def __init__(self, times: list[Times]) -> None:
        self._times = times

    def __len__(self) -> int:
        return len(self._times)

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(self._times[index][0] / 1e3)
        return torch.ones(8)


class Model(nn.Module):
    """Computes for the planted time."""

    def __init__(self, times: list[Times]) -> None:
        super().__init__()
        self.layer, self._times, self._step = nn.Linear(8, 1), times, 0

    def forward(self, inputs: torch.Tensor) -> Any:
        time.sleep(self._times[self._step][1] / 1e3)
        self._step += 1
        return self.layer(inputs)


class Clock:
    """A communication hook that notes when it was called last."""

    def __init__(self) -> None:
        self.called_ns = 0

    def hook(self, group: Any, bucket: Any) -> Any:
        result = allreduce_hook(group, bucket)
        self.called_ns = time.perf_counter_ns()
        return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", choices=CASES, default="loader")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--truth", type=Path, help="folder for the file with the times by the script's own clock")
    chosen = parser.parse_args()
    distributed.init_process_group("gloo")
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    times = [CASES[chosen.case](rank, ranks, step) for step in range(chosen.steps)]
    model, clock = DistributedDataParallel(Model(times)), Clock()
    if chosen.truth is not None:
        model.register_comm_hook(None, lambda state, bucket: clock.hook(state, bucket))
    steps = _train(model, DataLoader(Samples(times)), clock)
    if chosen.truth is not None:
        (chosen.truth / f"rank{rank}.json").write_text(json.dumps(steps), encoding="utf-8")
    distributed.destroy_process_group()


def _train(model: nn.Module, loader: DataLoader[torch.Tensor], clock: Clock) -> list[tuple[int, int, int]]:
    """Of each step: the wait, the time in the collective and the length, ns."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    batches, steps = iter(loader), []
    asked = time.perf_counter_ns()
    while (inputs := next(batches, None)) is not None:
        arrived = time.perf_counter_ns()
        model(inputs).sum().backward()
        ended = time.perf_counter_ns()
        optimizer.step()
        optimizer.zero_grad()
        now = time.perf_counter_ns()
        steps.append((arrived - asked, ended - clock.called_ns, now - asked))
        asked = now
    return steps


if __name__ == "__main__":
    main()

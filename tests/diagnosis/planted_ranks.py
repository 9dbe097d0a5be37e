"""Jobs of several ranks with planted times: each step is as long as its slowest rank, plus the all-reduce."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from loaderlab.device.step_times import DeviceStep
from loaderlab.diagnosis.rank_rows import rank_steps_of_rows
from loaderlab.diagnosis.rank_steps import FLOAT64
from loaderlab.diagnosis.ranks import RankFacts, RankSteps
from loaderlab.meter.step import Step
from loaderlab.meter.step_rows import rows_of

ALL_REDUCE_MS = 2.0
BATCH = 32


def steps_of(starved: FLOAT64, compute: FLOAT64, *, on_device: bool = False) -> list[list[Step]]:
    """The steps of each rank; arguments in ms, (num_ranks, num_steps). Every rank ends each step at the same time."""
    lengths = (starved + compute).max(axis=0) + ALL_REDUCE_MS
    collective = lengths - starved - compute
    return [
        [
            _step(number, *times, on_device=on_device)
            for number, times in enumerate(zip(starved[rank], compute[rank], collective[rank], strict=True))
        ]
        for rank in range(len(starved))
    ]


def _step(number: int, starved: float, compute: float, collective: float, *, on_device: bool) -> Step:
    if on_device:  # the host queues the step at once, and waits for data while the device still works
        device = DeviceStep(starved, 0.0, compute / 2, compute / 2 + collective, 0.0, 0.0, collective=collective)
        return Step(0, number, number, BATCH, (round((starved + 5) * 1e6), 0, 0, 0, 0), device=device)
    ns = [round(1e6 * ms) for ms in (starved, 0.0, compute / 2, compute / 2 + collective, 0.0)]
    host = (ns[0], ns[1], ns[2], ns[3], ns[4])
    return Step(0, number, number, BATCH, host, collective_ns=round(1e6 * collective))


def ranks_of(
    starved: FLOAT64, compute: FLOAT64, facts: Mapping[int, RankFacts] | None = None, ranks_per_node: int = 2
) -> list[RankSteps]:
    """The same steps as arrays. ``facts``: of some ranks."""
    lengths = (starved + compute).max(axis=0) + ALL_REDUCE_MS
    numbers = np.arange(starved.shape[1])
    return [
        RankSteps(
            rank,
            f"n{rank // ranks_per_node}",
            numbers,
            starved[rank],
            starved[rank] + compute[rank],
            lengths,
            (facts or {}).get(rank, RankFacts()),
        )
        for rank in range(len(starved))
    ]


def from_steps(steps: Sequence[Sequence[Step]], ranks_per_node: int = 2) -> list[RankSteps]:
    """The arrays from the meter's steps."""
    return [
        rank_steps_of_rows(rank, f"n{rank // ranks_per_node}", rows_of(own), RankFacts())
        for rank, own in enumerate(steps)
    ]


def times(num_ranks: int, num_steps: int, ms: float) -> FLOAT64:
    """The same time in each step of each rank."""
    return np.full((num_ranks, num_steps), ms)


def jittered(num_ranks: int, num_steps: int, ms: float, share: float, seed: int) -> FLOAT64:
    """Normally distributed times around ``ms`` with a deviation of ``share`` of it, at least 0."""
    random = np.random.default_rng(seed)
    return np.maximum(0.0, ms * (1 + share * random.standard_normal((num_ranks, num_steps))))

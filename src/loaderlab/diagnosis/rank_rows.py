"""The steps of a job and of its ranks, from rows in arrays: a thousand ranks need no million of `Step` objects. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from loaderlab.diagnosis.rank_steps import FLOAT64, INT64, RankFacts, RankSteps
from loaderlab.meter.step import PHASES, Step
from loaderlab.meter.step_rows import DEVICE, DISTURBED, Rows, steps_of
from loaderlab.system.ranks import Ranks

NO_FACTS = RankFacts()


@dataclass(frozen=True)
class RankRecord:
    """What a rank measured, as it sends it to rank 0.

    Attributes:
        rows: all of its steps.
        warmup_steps, parallel: of its loop: see `LoopRecord`.
        figures: its own metrics.
        environment: of its node.
    """

    ranks: Ranks
    rows: Rows
    warmup_steps: int
    parallel: int
    figures: Mapping[str, float]
    facts: RankFacts = NO_FACTS
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> list[Step]:
        """All of its steps."""
        return steps_of(self.rows)

    @cached_property
    def is_measured(self) -> npt.NDArray[np.bool_]:
        """Of each row, whether its step is measured."""
        rows = self.rows
        settled = (rows["step"] >= self.warmup_steps) & (rows["position"] >= self.parallel)
        return np.asarray(settled & ((rows["flags"] & DISTURBED) == 0), np.bool_)

    @cached_property
    def window(self) -> RankSteps:
        """Its measured steps."""
        return rank_steps_of_rows(self.ranks.rank, self.ranks.node, self.rows[self.is_measured], self.facts)


def node_facts(records: Sequence[RankRecord]) -> dict[str, Any]:
    """``environment.json`` of each node: the first of its ranks describes it."""
    nodes: dict[str, Any] = {}
    for record in records:
        entry = nodes.setdefault(record.ranks.node, {"ranks": []})
        entry["ranks"].append(record.ranks.rank)
        entry |= {name: value for name, value in record.environment.items() if name not in entry}
    return nodes


def rank_steps_of_rows(rank: int, node: str, rows: Rows, facts: RankFacts) -> RankSteps:
    """The measured steps of a rank as arrays. ``rows``: in ascending order of their steps."""
    starved, own, length = _times(rows)
    return RankSteps(rank, node, rows["step"].astype(np.int64), starved, own, length, facts)


def _times(rows: Rows) -> tuple[FLOAT64, FLOAT64, FLOAT64]:
    """Starved time, own time and length of each step, ms: as the properties of `Step`."""
    on_device = (rows["flags"] & DEVICE) != 0
    host = _sum(rows, *(f"host_{name}" for name in (*PHASES, "other")))
    device = _sum(rows, *(f"device_{name}" for name in ("gap", "delivery", *PHASES[2:])))
    idle = _sum(rows, "device_gap") - _sum(rows, "device_trailing")
    on_host = _sum(rows, "host_wait", "host_transfer")
    starved = np.where(on_device, np.minimum(idle, _sum(rows, "host_wait")) + _sum(rows, "device_delivery"), on_host)
    length = np.where(on_device, device, host)
    collective = np.where(on_device, _sum(rows, "device_collective"), _sum(rows, "host_collective"))
    return starved, length - collective, length


def _sum(rows: Rows, *names: str) -> FLOAT64:
    total = np.zeros(len(rows))
    for name in names:
        total += rows[name]
    return total


@dataclass
class _JobRows:
    """The steps of the job, over the ranks seen so far; arrays of equal length."""

    slowest: Rows
    own_ms: FLOAT64
    compute_ms: FLOAT64
    num_samples: INT64
    loss_sum: FLOAT64
    disturbed: npt.NDArray[np.bool_]

    def joined(self, other: _JobRows) -> _JobRows:
        """The steps that both have."""
        first, second = self, other
        if not np.array_equal(self.slowest["step"], other.slowest["step"]):
            numbers = (self.slowest["step"], other.slowest["step"])
            _, mine, others = np.intersect1d(*numbers, assume_unique=True, return_indices=True)
            first, second = self.at(mine), other.at(others)
        slower = second.own_ms > first.own_ms
        slowest = first.slowest.copy()
        slowest[slower] = second.slowest[slower]
        return _JobRows(
            slowest,
            own_ms=np.maximum(first.own_ms, second.own_ms),
            compute_ms=np.maximum(first.compute_ms, second.compute_ms),
            num_samples=first.num_samples + second.num_samples,
            loss_sum=first.loss_sum + second.loss_sum,
            disturbed=first.disturbed | second.disturbed,
        )

    def at(self, places: INT64) -> _JobRows:
        """Some of the steps."""
        return _JobRows(
            self.slowest[places],
            self.own_ms[places],
            self.compute_ms[places],
            self.num_samples[places],
            self.loss_sum[places],
            self.disturbed[places],
        )


def job_steps_of_rows(ranks: Iterable[Rows]) -> list[Step]:
    """The steps of the job: for each step number that all ranks have, the step of the slowest rank (largest s + c).

    Its ``num_samples`` is the sum over ranks, its ``loss`` the mean over samples, and its ``lost_ms`` max(s + c) - max(c) over ranks.
    `loaderlab.meter.summary.summarize` then gives the rate and the starved share of the job.

    Args:
        ranks: the steps of each rank; they are read one rank after the other, so a generator needs memory for one rank only.
    """
    job: _JobRows | None = None
    for rows in ranks:
        one = _job_of(rows)
        job = one if job is None else job.joined(one)
    if job is None:
        return []
    lost, losses = job.own_ms - job.compute_ms, job.loss_sum / np.where(job.num_samples > 0, job.num_samples, np.nan)
    values = zip(lost.tolist(), job.num_samples.tolist(), losses.tolist(), job.disturbed.tolist(), strict=True)
    return [
        replace(step, lost_ms=lost_ms, num_samples=num_samples, loss=loss, disturbed=disturbed)
        for step, (lost_ms, num_samples, loss, disturbed) in zip(steps_of(job.slowest), values, strict=True)
    ]


def _job_of(rows: Rows) -> _JobRows:
    """The steps of a job of this rank alone."""
    starved, own, _ = _times(rows)
    samples = rows["num_samples"].astype(np.int64)
    losses = np.where((rows["flags"] & DEVICE) != 0, rows["device_loss"], rows["loss"])
    return _JobRows(
        rows, own, own - starved, samples, np.asarray(samples * losses, np.float64), (rows["flags"] & DISTURBED) != 0
    )

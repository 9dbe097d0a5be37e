"""The steps of several ranks: of each rank as arrays, and joined by step number. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FLOAT64 = npt.NDArray[np.float64]
INT64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RankFacts:
    """What may explain that a rank is slow. None or an empty text: not known.

    Attributes:
        loader_rate: of its loader alone, samples/s.
        cores: number of cores that it may use.
        read_mib_per_s: read from the disk during the loop.
        shard_mib: stored size of the samples that it reads in one epoch.
        device: name of its device.
        num_workers: of its loader.
        num_samples: of its dataset, of which a sampler may choose a part.
        num_batches: of its loader in one epoch.
        file_system: type of the file system with its data: ``nfs4``.
    """

    loader_rate: float | None = None
    cores: float | None = None
    read_mib_per_s: float | None = None
    shard_mib: float | None = None
    device: str = ""
    num_workers: float | None = None
    num_samples: float | None = None
    num_batches: float | None = None
    file_system: str = ""


@dataclass(frozen=True)
class RankSteps:
    """The measured steps of one rank, as arrays of equal length.

    Attributes:
        step: step numbers, ascending.
        starved_ms: starved time of each step (s).
        own_ms: starved time and own compute, without collectives (s + c).
        length_ms: the whole step, with the wait for other ranks.
    """

    rank: int
    node: str
    step: INT64
    starved_ms: FLOAT64
    own_ms: FLOAT64
    length_ms: FLOAT64
    facts: RankFacts = RankFacts()

    @property
    def compute_ms(self) -> FLOAT64:
        """Own compute of each step, without collectives (c)."""
        return self.own_ms - self.starved_ms


@dataclass(frozen=True)
class JoinedSteps:
    """The steps that all of these ranks measured; rows are ranks, columns are steps.

    Attributes:
        step: (num_steps,) their numbers.
        starved_ms, own_ms: (num_ranks, num_steps), see `RankSteps`.
        slowest: (num_steps,) row of the rank with the largest s + c.
        length_ms: (num_steps,) step time of that rank.
        lost_ms: (num_steps,) max(s + c) - max(c) over ranks.
    """

    ranks: Sequence[RankSteps]
    step: INT64
    starved_ms: FLOAT64
    own_ms: FLOAT64
    slowest: INT64
    length_ms: FLOAT64
    lost_ms: FLOAT64

    @property
    def num_steps(self) -> int:
        return len(self.length_ms)

    @property
    def lost_pct_by_rank(self) -> FLOAT64:
        """(num_ranks,) The share of the job's time that would be lost if only this rank waited for data, by the same formula."""
        compute = (self.own_ms - self.starved_ms).max(axis=0)
        lost = np.array([np.maximum(own - compute, 0.0).sum() for own in self.own_ms])
        return np.asarray(100 * lost / self.length_ms.sum(), np.float64)


def join(ranks: Sequence[RankSteps]) -> JoinedSteps:
    """The steps that all ranks measured, joined by step number. There is at least one rank."""
    common = ranks[0].step
    for rank in ranks[1:]:
        if not np.array_equal(common, rank.step):
            common = np.intersect1d(common, rank.step, assume_unique=True)
    starved, own = np.empty((len(ranks), len(common))), np.empty((len(ranks), len(common)))
    lengths, largest_own, largest_compute = np.zeros(len(common)), np.full(len(common), -np.inf), None
    slowest = np.zeros(len(common), np.int64)
    for row, rank in enumerate(ranks):  # row by row: 1,024 ranks x 10,000 steps take 78 MiB per matrix
        columns = np.searchsorted(rank.step, common)
        starved[row], own[row] = rank.starved_ms[columns], rank.own_ms[columns]
        compute = own[row] - starved[row]
        largest_compute = compute if largest_compute is None else np.maximum(largest_compute, compute)
        slower = own[row] > largest_own
        slowest[slower], lengths[slower] = row, rank.length_ms[columns][slower]
        largest_own = np.maximum(largest_own, own[row])
    assert largest_compute is not None
    return JoinedSteps(ranks, common, starved, own, slowest, lengths, largest_own - largest_compute)

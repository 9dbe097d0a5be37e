"""The verdict on a job of several ranks, as data: its lost time, the rank that slows it down, and the cause. Pure."""

from __future__ import annotations

from dataclasses import dataclass

LOADER, DEVICE, MOVING = "loader", "device", "moving"
WARNING_PCT, CRITICAL_PCT = 10.0, 20.0  # of the step


@dataclass(frozen=True)
class Straggler:
    """What slows the job down.

    Attributes:
        rank, node: None and empty if the cause is MOVING.
        cause: LOADER: its starved time is the larger part of the excess. DEVICE: its own compute is. MOVING: the slow
            rank changes, so the loader is too slow or too uneven on all ranks.
        excess_pct: excess over the fastest other rank, as a share of the step; of MOVING, over the median of the others,
            step by step.
        critical: CRITICAL_PCT or more.
        differs: what differs between this rank and the others, as parts of a sentence.
        nearly: other ranks that are nearly as slow.
    """

    rank: int | None
    node: str
    cause: str
    excess_pct: float
    critical: bool
    differs: tuple[str, ...] = ()
    nearly: tuple[int, ...] = ()


@dataclass(frozen=True)
class RanksVerdict:
    """The verdict on a job of several ranks.

    Attributes:
        unmeasured: ranks with fewer than 15 measured steps; they are not judged.
        lost_pct: starved share of the job: sum of max(s + c) - max(c) over ranks / sum of the steps.
        excess_pct: of the slowest rank over the fastest, as a share of the step, even if it is no straggler.
        straggler: None if there is none, or if it is not known.
        sentence: the result, without a full stop.
    """

    num_ranks: int
    unmeasured: tuple[int, ...]
    lost_pct: float | None
    excess_pct: float | None
    straggler: Straggler | None
    sentence: str = ""

    def tags(self) -> dict[str, str]:
        """As tags of a run."""
        tags = {}
        if self.straggler is not None:
            tags["straggler.cause"] = self.straggler.cause
            tags["straggler.level"] = "critical" if self.straggler.critical else "warning"
            if self.straggler.rank is not None:
                tags |= {"straggler.rank": str(self.straggler.rank), "straggler.node": self.straggler.node}
        if self.excess_pct is not None:
            tags["straggler.excess_pct"] = f"{self.excess_pct:.1f}"
        return tags


@dataclass(frozen=True)
class Excess:
    """By how much the slowest rank's own time exceeds another's.

    Attributes:
        ms, starved_ms: means over the steps.
        pct: of the mean step.
        interval_pct: 95 % confidence interval of `pct`; None if there are too few steps for one.
        beyond_chance: more than equal ranks differ by, given how much their steps vary.
    """

    ms: float
    starved_ms: float
    pct: float
    interval_pct: tuple[float, float] | None = None
    beyond_chance: bool = True

    @property
    def compute_ms(self) -> float:
        """The part that is own compute."""
        return self.ms - self.starved_ms

    @property
    def is_certain(self) -> bool:
        """Whether it is a straggler's excess: the whole confidence interval is above WARNING_PCT, and it is not chance."""
        return self.beyond_chance and self.interval_pct is not None and self.interval_pct[0] >= WARNING_PCT

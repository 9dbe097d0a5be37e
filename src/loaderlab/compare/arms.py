"""The data classes of a comparison: Arm, ComparedArm, Group, Comparison.

All of it is frozen. `grouping` makes the arms of the runs, `comparison` makes compared arms of the arms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loaderlab.compare.stats import LEAST_PAIRS, Ratio, median, spread
from loaderlab.tracking.records import Missing, RunRecord


@dataclass(frozen=True, eq=False)
class Arm:
    """Runs that differ in nothing but the seed.

    Attributes:
        settings: of the comparison's columns; None where this arm's choice has no such setting.
        runs: finished ones that have the metric; at least one.
        metric: that gains are of.
    """

    settings: Mapping[str, str | None]
    label: str
    runs: Sequence[RunRecord]
    metric: str

    @property
    def values(self) -> list[float]:
        """The metric of each run."""
        return [run.figures[self.metric] for run in self.runs]

    def median(self, metric: str) -> float | None:
        """Over the runs that measured it; None where none did."""
        values = [run.figures[metric] for run in self.runs if metric in run.figures]
        return median(values) if values else None

    def num_measured(self, metric: str) -> int:
        """Runs that measured it."""
        return sum(metric in run.figures for run in self.runs)

    def settled(self, metric: str) -> float | None:
        """The median where enough runs measured it to speak of the arm: three, or all of fewer."""
        return self.median(metric) if self.num_measured(metric) >= min(LEAST_PAIRS, len(self.runs)) else None

    def tags(self, name: str) -> list[str]:
        """What its runs say under a tag, those that have it."""
        return [run.tags[name] for run in self.runs if run.tags.get(name)]

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % confidence interval of the arm's own centre; None with fewer than three runs."""
        return spread(self.values)

    @property
    def is_ceiling(self) -> bool:
        """Fed from batches at hand: no loader, and not meant to learn."""
        return self.runs[0].is_ceiling

    @property
    def verdicts(self) -> str:
        """The verdict of its runs, with how many said so where they disagree."""
        counts = Counter(self.tags("verdict"))
        return ", ".join(
            verdict if len(counts) == 1 else f"{verdict} ({count} of {counts.total()})"
            for verdict, count in counts.most_common()
        )

    @property
    def verdict(self) -> str:
        """What all but one in three of its runs say; "inconclusive" where they disagree, empty where none says anything."""
        counts = Counter(self.tags("verdict"))
        if not counts:
            return ""
        verdict, count = counts.most_common(1)[0]
        return verdict if 3 * count >= 2 * counts.total() else "inconclusive"

    @property
    def representative(self) -> RunRecord:
        """The run in the middle: whose steps and losses are drawn."""
        return sorted(self.runs, key=lambda run: run.figures[self.metric])[(len(self.runs) - 1) // 2]


@dataclass(frozen=True, eq=False)
class ComparedArm(Arm):
    """An arm with what the comparison says of it.

    Attributes:
        is_baseline: others are compared with it.
        partner: the arm that it is compared with; None for a baseline, and where there is none.
        gain: how many times better than the partner, paired by round.
        strict: the same at the level for a choice among all arms of the group.
        over_previous: for a ladder's rung, how many times better than the rung before.
        learning: in words, how it learns differently from the partner; empty where no difference is shown.
        notes: in words, what a reader of its figures should know.
    """

    is_baseline: bool = False
    partner: ComparedArm | None = None
    gain: Ratio | None = None
    strict: Ratio | None = None
    over_previous: Ratio | None = None
    learning: Sequence[str] = field(default_factory=list)
    notes: Sequence[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Group:
    """Arms that did the same work on the same hardware.

    Attributes:
        work: what tells this group from the others.
        baseline: the arm that most others are compared with, where there is a single one.
    """

    work: Mapping[str, str]
    arms: Sequence[ComparedArm]
    baseline: ComparedArm | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` gives.

    Attributes:
        columns: settings that differ, the ladder's ``rung`` in their place where there is one.
        missing: what was not measured, and why.
        notes: in words, what a reader of any of it should know.
        study: of all runs; None where they are of none, or of several.
    """

    title: str
    metric: str
    columns: Sequence[str]
    groups: Sequence[Group]
    missing: Sequence[Missing]
    notes: Sequence[str]
    study: str | None = None

    @property
    def is_ladder(self) -> bool:
        """Whether its arms are the rungs of one ladder."""
        return self.columns == ["rung"]

    @property
    def arms(self) -> list[ComparedArm]:
        """Of all groups."""
        return [arm for group in self.groups for arm in group.arms]


def short(name: str) -> str:
    """The name of a setting as a column: ``loader`` for ``loader.name``."""
    return name.removesuffix(".name")

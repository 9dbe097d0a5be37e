"""The data classes of a comparison: Arm, ComparedArm, Group, Comparison.

All of them are frozen. `grouping` turns runs into arms, `comparison` turns arms into compared arms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loaderlab.compare.stats import LEAST_PAIRS, Ratio, median, spread
from loaderlab.tracking.records import Missing, RunRecord


@dataclass(frozen=True, eq=False)
class Arm:
    """Runs that differ only in the seed.

    Attributes:
        settings: values of the comparison's columns; None if this arm's choice has no such setting.
        runs: the finished runs that have the metric; at least one.
        metric: the metric of the gains.
    """

    settings: Mapping[str, str | None]
    label: str
    runs: Sequence[RunRecord]
    metric: str

    @property
    def values(self) -> list[float]:
        """The value of the metric in each run."""
        return [run.figures[self.metric] for run in self.runs]

    def median(self, metric: str) -> float | None:
        """The median over the runs that measured a metric; None if no run did."""
        values = [run.figures[metric] for run in self.runs if metric in run.figures]
        return median(values) if values else None

    def num_measured(self, metric: str) -> int:
        """The number of runs that measured a metric."""
        return sum(metric in run.figures for run in self.runs)

    def reliable_median(self, metric: str) -> float | None:
        """The median if enough runs measured it: three, or all runs of a smaller arm. Otherwise None."""
        return self.median(metric) if self.num_measured(metric) >= min(LEAST_PAIRS, len(self.runs)) else None

    def tags(self, name: str) -> list[str]:
        """The values of a tag, from the runs that have it."""
        return [run.tags[name] for run in self.runs if run.tags.get(name)]

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval of the arm's centre; None with fewer than three runs."""
        return spread(self.values)

    @property
    def is_ceiling(self) -> bool:
        """Whether it trains on batches that stay on the device: it has no loader and is not expected to learn."""
        return self.runs[0].is_ceiling

    @property
    def is_emulated(self) -> bool:
        """Whether its device was an emulated accelerator."""
        return self.runs[0].is_emulated

    @property
    def rung(self) -> str | None:
        """Its rung of the ladder, if it is one."""
        return self.runs[0].settings.get("rung")

    @property
    def verdicts(self) -> str:
        """The verdicts of its runs, with their counts if the runs disagree."""
        counts = Counter(self.tags("verdict"))
        return ", ".join(
            verdict if len(counts) == 1 else f"{verdict} ({count} of {counts.total()})"
            for verdict, count in counts.most_common()
        )

    @property
    def verdict(self) -> str:
        """The verdict of at least two thirds of its runs; "inconclusive" if they disagree, empty if no run has one."""
        counts = Counter(self.tags("verdict"))
        if not counts:
            return ""
        verdict, count = counts.most_common(1)[0]
        return verdict if 3 * count >= 2 * counts.total() else "inconclusive"

    @property
    def representative(self) -> RunRecord:
        """The median run, whose steps and losses are drawn."""
        return sorted(self.runs, key=lambda run: run.figures[self.metric])[(len(self.runs) - 1) // 2]


@dataclass(frozen=True, eq=False)
class ComparedArm(Arm):
    """An arm with the results of its comparison.

    Attributes:
        is_baseline: other arms are compared with it.
        partner: the arm that it is compared with; None for a baseline, and if there is no such arm.
        gain: how many times better than the partner, paired by repeat.
        strict: the same at the confidence level for a choice among all arms of the group.
        over_previous: for a ladder's rung, how many times better than the previous rung.
        learning: one text for each difference in learning from the partner; empty if no difference is shown.
        notes: one text for each caveat about its results.
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
        work: the settings and tags by which this group differs from the others.
        baseline: the arm that the others are compared with; None if there are several.
    """

    work: Mapping[str, str]
    arms: Sequence[ComparedArm]
    baseline: ComparedArm | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """The result of `compare`.

    Attributes:
        columns: the settings that differ; for a ladder, ``rung`` instead.
        missing: jobs and runs without a value, and why.
        notes: one text for each caveat about the whole comparison.
        study: the study that all runs belong to; None if there is none, or more than one.
        mark: the words that mark results of emulated accelerators; empty for real devices.
    """

    title: str
    metric: str
    columns: Sequence[str]
    groups: Sequence[Group]
    missing: Sequence[Missing]
    notes: Sequence[str]
    study: str | None = None
    mark: str = ""

    @property
    def is_emulated(self) -> bool:
        """Whether its runs are on emulated accelerators; a comparison never has runs of both kinds."""
        return bool(self.mark)

    @property
    def is_ladder(self) -> bool:
        """Whether the arms are the rungs of one ladder."""
        return self.columns == ["rung"]

    @property
    def num_left_out(self) -> int:
        """The number of runs that did not finish, of arms of which other runs finished."""
        return sum(entry.has_finished_arm for entry in self.missing)

    @property
    def not_judged(self) -> list[str]:
        """Jobs and runs because of which a gate cannot pass, and why: without those of `num_left_out`, and without jobs that are
        not applicable here."""
        return [
            f"{entry.name}: {entry.why}"
            for entry in self.missing
            if not (entry.has_finished_arm or entry.not_applicable)
        ]

    @property
    def arms(self) -> list[ComparedArm]:
        """The arms of all groups."""
        return [arm for group in self.groups for arm in group.arms]


def short(name: str) -> str:
    """The name of a setting as a column heading: ``loader`` for ``loader.name``."""
    return name.removesuffix(".name")

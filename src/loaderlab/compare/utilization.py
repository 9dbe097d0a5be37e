"""The gate on utilization: does every arm reach a given share of its device's speed? Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loaderlab import metrics
from loaderlab.compare.arms import ComparedArm, Comparison
from loaderlab.compare.group_names import group_name
from loaderlab.compare.stats import median, spread

WHOLE = {  # metric to what its percentage refers to
    metrics.UTILIZATION_PCT: "the emulated accelerator's requested rate",
    metrics.EFFICIENCY_PCT: "the ceiling",
}


def utilization_metric(*, emulated: bool) -> str:
    """The metric of a run's utilization: rate / requested rate of an emulated accelerator, otherwise rate / ceiling."""
    return metrics.UTILIZATION_PCT if emulated else metrics.EFFICIENCY_PCT


@dataclass(frozen=True)
class Utilization:
    """The utilization of an arm or of a run.

    Attributes:
        name: of the arm or run.
        metric: see `utilization_metric`.
        values: one for each repeat, percent; at least one.
    """

    name: str
    metric: str
    values: Sequence[float]

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval, percent; None with fewer than three repeats."""
        return spread(self.values)

    def is_below(self, limit: float) -> bool:
        """Whether the whole interval, or without an interval the median, is below a limit, 0 to 1."""
        upper = median(self.values) if self.interval is None else self.interval[1]
        return upper < 100 * limit

    def __str__(self) -> str:
        text = f"{self.name} reaches {median(self.values):.1f} % of {WHOLE[self.metric]}"
        if self.interval is not None:
            return f"{text} (95 % CI {self.interval[0]:.1f} to {self.interval[1]:.1f})"
        return text if len(self.values) == 1 else f"{text} (median of {len(self.values)} repeats)"


@dataclass(frozen=True)
class UtilizationGate:
    """The arms that a gate judges, and those that it cannot judge. Arms without a loader are left out.

    Attributes:
        judged: the utilization of each arm that has one.
        unmeasured: jobs without a value, and why: see `Comparison.not_judged`.
        without: the metric that an arm should have, by the name of the arm.
    """

    judged: Sequence[Utilization]
    unmeasured: Sequence[str]
    without: Mapping[str, str]


def judge_utilization(comparison: Comparison) -> UtilizationGate:
    """The utilization of each arm. Of two sweeps, only the new one is judged."""
    judged, without = [], {}
    metric = utilization_metric(emulated=comparison.is_emulated)
    for group, arm in [(entry, arm) for entry in comparison.groups for arm in entry.arms]:
        if arm.is_ceiling or _is_of_earlier_sweep(arm):
            continue
        work = group_name(comparison, group)  # arms of two groups can have the same label
        name = f"{work}: {arm.label}" if work else arm.label
        if arm.reliable_median(metric) is None:
            without[name] = metric
        else:
            judged.append(Utilization(name, metric, [run.figures[metric] for run in arm.runs if metric in run.figures]))
    unmeasured = comparison.not_judged
    return UtilizationGate(judged, unmeasured, without)


def _is_of_earlier_sweep(arm: ComparedArm) -> bool:
    return arm.is_baseline and "sweep" in arm.settings

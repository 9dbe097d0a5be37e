"""The capacity of a host for emulated accelerators, over the number of workers or threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loaderlab import metrics
from loaderlab.compare.arms import Arm, Comparison, Group
from loaderlab.compare.stats import median
from loaderlab.config import EMULATED

COUNTS = ("loader.num_workers", "loader.num_threads")
ACCELERATOR = "accelerator."  # the start of its settings
MIN_UTILIZATION = "accelerator.min_utilization"
MLPERF_THRESHOLD = 0.9


@dataclass(frozen=True)
class CapacityCurve:
    """The utilization of one emulated accelerator over the number of workers or threads.

    Attributes:
        setting: the setting that gives the number.
        requested_rate: samples/s that the accelerator takes if it never waits.
        threshold: utilization from which MLPerf Storage's rule counts it as fed, 0 to 1.
        arms: (number, arm), in ascending order; at least two.
    """

    setting: str
    requested_rate: float
    threshold: float
    arms: Sequence[tuple[int, Arm]]

    @property
    def unit(self) -> str:
        """``worker`` or ``thread``."""
        return self.setting.rpartition(".")[2].removeprefix("num_").removesuffix("s")

    @property
    def enough(self) -> tuple[int, Arm] | None:
        """The fewest workers or threads whose utilization reaches the threshold; None if no number does."""
        return next(((count, arm) for count, arm in self.arms if (utilization(arm) or 0.0) >= self.threshold), None)

    @property
    def rate_of_one(self) -> float | None:
        """The loader's own rate per worker or thread, samples/s, with the fewest that were measured; None if it was not."""
        rates = ((count, arm.median(metrics.LOADER_RATE)) for count, arm in self.arms if count)
        return next((rate / count for count, rate in rates if rate), None)

    @property
    def is_limited(self) -> bool:
        """Whether no number of workers can feed the accelerator: see `loaderlab.diagnosis.feed_limit`."""
        last = self.arms[-1][1]
        return last.median(metrics.LOADER_RATE) is not None and last.median(metrics.WORKERS_NEEDED) is None

    @property
    def cores_needed(self) -> float | None:
        """Cores to feed the accelerator, by the linear estimate of the last arm."""
        return self.arms[-1][1].median(metrics.CORES_NEEDED)

    def estimate(self, count: int) -> float | None:
        """The utilization by the linear estimate, 0 to 1; None without workers, or if the loader was not measured alone."""
        if not count or self.rate_of_one is None:
            return None
        return min(1.0, count * self.rate_of_one / self.requested_rate)


def utilization(arm: Arm) -> float | None:
    """The median utilization of an arm's emulated accelerator, 0 to 1; None on a real device."""
    percent = arm.median(metrics.UTILIZATION_PCT)
    return None if percent is None else percent / 100


def requested_rate(arm: Arm) -> float | None:
    """Samples/s that an arm's emulated accelerator takes if it never waits; None on a real device."""
    rates = [
        100 * run.figures[metrics.RATE] / run.figures[metrics.UTILIZATION_PCT]
        for run in arm.runs
        if run.figures.get(metrics.UTILIZATION_PCT) and metrics.RATE in run.figures
    ]
    return median(rates) if rates else None


def threshold(arm: Arm) -> float:
    """The utilization from which MLPerf Storage's rule counts an arm's accelerator as fed, 0 to 1."""
    return float(arm.runs[0].settings.get(MIN_UTILIZATION, MLPERF_THRESHOLD))


def accelerator(arm: Arm) -> str:
    """``emulated resnet50_a100 (920 samples/s)``."""
    name = f"{EMULATED} {arm.runs[0].settings.get(f'{ACCELERATOR}name', 'accelerator')}"
    rate = requested_rate(arm)
    return name if rate is None else f"{name} ({metrics.metric(metrics.RATE).quantity(rate)})"


def capacity_curve(group: Group, columns: Sequence[str]) -> CapacityCurve | None:
    """The curve of a group; None if it has no emulated accelerator, if settings other than the number of workers or threads
    differ, or with fewer than two numbers."""
    differing = [name for name in columns if not name.startswith(ACCELERATOR)]
    if len(differing) != 1 or differing[0] not in COUNTS:
        return None
    counted = [(str(arm.settings[differing[0]]), arm) for arm in group.arms if utilization(arm) is not None]
    points = sorted(((int(count), arm) for count, arm in counted if count.isdigit()), key=lambda point: point[0])
    rate = requested_rate(points[0][1]) if points else None
    if rate is None or len({count for count, _ in points}) < max(2, len(points)):
        return None
    return CapacityCurve(differing[0], rate, threshold(points[0][1]), points)


def capacity_curves(comparison: Comparison) -> list[CapacityCurve]:
    """The curves of all groups, by ascending speed; none if two have the same speed, since they differ in something else."""
    curves = [curve for group in comparison.groups if (curve := capacity_curve(group, comparison.columns)) is not None]
    speeds = {round(curve.requested_rate, 3) for curve in curves}
    return sorted(curves, key=lambda curve: curve.requested_rate) if len(speeds) == len(curves) else []

"""Results across settings: the gain that a loader hides, ceilings that should agree, the curve over workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loaderlab import metrics
from loaderlab.compare.arms import Arm, Group
from loaderlab.compare.pairs import gain, paired_values
from loaderlab.compare.stats import LEAST_PAIRS, Ratio, median, ratio

NEAR_KNEE = 0.95  # of the best rate: more workers than that mostly cost memory
CEILINGS_AGREE = 1.05


@dataclass(frozen=True)
class Hidden:
    """The gain of one precision over another, at the ceiling and with a loader."""

    loader: str
    precision: str
    over: str
    at_ceiling: Ratio
    with_loader: Ratio


def grid(group: Group, columns: Sequence[str]) -> dict[tuple[str, str], Arm]:
    """(loader, precision) to arm if only these two settings differ; otherwise empty."""
    if set(columns) != {"loader.name", "precision.name"}:
        return {}
    return {(str(arm.settings["loader.name"]), str(arm.settings["precision.name"])): arm for arm in group.arms}


def hidden_gains(cells: Mapping[tuple[str, str], Arm]) -> list[Hidden]:
    """For each loader and each precision after the first: its gain over the first, at the ceiling and with the loader."""
    gains = []
    precisions = list(dict.fromkeys(precision for _, precision in cells))
    for (loader, precision), arm in cells.items():
        base = cells.get((loader, precisions[0]))
        if base is None or arm is base or arm.is_ceiling:
            continue
        ceilings = paired_values(arm, base, metrics.CEILING_RATE)
        rates = paired_values(arm, base, metrics.RATE)
        if ceilings and rates:
            gains.append(Hidden(loader, precision, precisions[0], ratio(ceilings), ratio(rates)))
    return gains


def ceilings_that_differ(cells: Mapping[tuple[str, str], Arm]) -> list[tuple[str, str, str, Ratio]]:
    """(precision, loader, first loader, ratio) for each loader whose ceiling differs from that of the first loader with the
    same precision. The step itself then differs too."""
    differences = []
    first: dict[str, tuple[str, Arm]] = {}
    for (loader, precision), arm in cells.items():
        if arm.is_ceiling or arm.median(metrics.CEILING_RATE) is None:
            continue
        base_loader, base = first.setdefault(precision, (loader, arm))
        if base is arm or not (pairs := paired_values(arm, base, metrics.CEILING_RATE)):
            continue
        over_base = ratio(pairs)
        differs = max(over_base.value, 1 / over_base.value) > CEILINGS_AGREE
        if differs and over_base.shown:
            differences.append((precision, loader, base_loader, over_base))
    return differences


@dataclass(frozen=True)
class Curve:
    """Throughput over the number of workers or threads of one loader."""

    setting: str
    arms: Sequence[tuple[int, Arm]]
    knee: tuple[int, Arm]
    best: tuple[int, Arm]

    @property
    def has_enough_repeats(self) -> bool:
        """Whether there are enough repeats to name a knee."""
        return min(len(self.knee[1].runs), len(self.best[1].runs)) >= LEAST_PAIRS

    @property
    def shown(self) -> bool:
        """Whether every smaller count is shown to be worse than the knee."""
        gains = [gain(self.knee[1], arm) for count, arm in self.arms if count < self.knee[0]]
        return all(over is not None and over.above for over in gains)


def curve(group: Group, columns: Sequence[str]) -> Curve | None:
    """The curve over workers or threads; None if other settings differ, or fewer than two counts were measured."""
    if len(columns) != 1 or columns[0] not in ("loader.num_workers", "loader.num_threads"):
        return None
    counted = [(str(arm.settings[columns[0]]), arm) for arm in group.arms]
    points = sorted(((int(count), arm) for count, arm in counted if count.isdigit()), key=lambda point: point[0])
    if len(points) < 2:
        return None

    more = metrics.higher_is_better(points[0][1].metric)
    best = (max if more else min)(points, key=lambda point: median(point[1].values))
    limit = median(best[1].values) * (NEAR_KNEE if more else 1 / NEAR_KNEE)
    knee = next(
        point for point in points if (median(point[1].values) >= limit if more else median(point[1].values) <= limit)
    )
    return Curve(columns[0], points, knee, best)

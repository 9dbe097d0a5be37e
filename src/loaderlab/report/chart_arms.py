"""The arms that fit into a picture, and the text of its caption if some are left out."""

from __future__ import annotations

from collections.abc import Sequence

from loaderlab import metrics
from loaderlab.compare.arms import ComparedArm, Group
from loaderlab.compare.stats import median

MAX_LINES = 8  # in a picture with one line per arm
MAX_BARS = 40


def with_lines(group: Group) -> Sequence[ComparedArm]:
    """The arms that are drawn as lines: the baseline and the best."""
    return _baseline_and_best(group, MAX_LINES)


def with_bars(group: Group) -> Sequence[ComparedArm]:
    """The arms that are drawn as bars or dots: the baseline and the best."""
    return _baseline_and_best(group, MAX_BARS)


def _baseline_and_best(group: Group, count: int) -> Sequence[ComparedArm]:
    arms = group.arms
    if len(arms) <= count:
        return arms
    sign = -1 if metrics.higher_is_better(arms[0].metric) else 1
    best = sorted(arms, key=lambda arm: sign * median(arm.values))[:count]
    kept = best if group.baseline is None or group.baseline in best else [group.baseline, *best[:-1]]
    return [arm for arm in arms if arm in kept]


def bars_left_out(group: Group) -> str:
    """The caption's sentence if not all arms have a bar; otherwise empty."""
    count = len(group.arms)
    return f" Only the baseline and the best arms are drawn, {MAX_BARS} of {count}." if count > MAX_BARS else ""


def lines_left_out(group: Group) -> str:
    """The caption's words if not all arms have a line; otherwise empty."""
    shown, count = len(with_lines(group)), len(group.arms)
    return f" (only the baseline and the best arms, {shown} of {count})" if shown < count else ""

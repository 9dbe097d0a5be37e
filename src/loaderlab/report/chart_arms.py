"""Which arms a picture has room for, and how its caption says so."""

from __future__ import annotations

from collections.abc import Sequence

from loaderlab import metrics
from loaderlab.compare.arms import ComparedArm, Group
from loaderlab.compare.stats import median

MOST_LINES = 8  # arms in a picture with a line each
MOST_BARS = 40


def with_lines(group: Group) -> Sequence[ComparedArm]:
    """The arms that get a line of their own: the baseline and the fastest."""
    return _few(group, MOST_LINES)


def with_bars(group: Group) -> Sequence[ComparedArm]:
    """The arms that get a bar or a dot of their own: the baseline and the fastest."""
    return _few(group, MOST_BARS)


def _few(group: Group, most: int) -> Sequence[ComparedArm]:
    arms = group.arms
    if len(arms) <= most:
        return arms
    sign = -1 if metrics.higher_is_better(arms[0].metric) else 1
    best = sorted(arms, key=lambda arm: sign * median(arm.values))[:most]
    kept = best if group.baseline is None or group.baseline in best else [group.baseline, *best[:-1]]
    return [arm for arm in arms if arm in kept]


def bars_left_out(group: Group) -> str:
    """For a caption: that not all arms have a bar; empty where they have."""
    more = len(group.arms) - MOST_BARS
    return f" The baseline and the best are drawn, {MOST_BARS} arms of {len(group.arms)}." if more > 0 else ""


def lines_left_out(group: Group) -> str:
    """For a caption: that not all arms have a line; empty where they have."""
    shown, count = len(with_lines(group)), len(group.arms)
    return f" (the baseline and the fastest, {shown} of {count})" if shown < count else ""

"""A comparison in sentences: which arm is faster, by how much, how close to its ceiling, at what cost, does it learn the same."""

from __future__ import annotations

import re

from loaderlab import metrics
from loaderlab.compare.arms import Arm, ComparedArm, Comparison, Group, short
from loaderlab.compare.axes import Curve, Hidden, ceilings_that_differ, curve, grid, hidden_gains
from loaderlab.compare.group_names import group_name
from loaderlab.compare.ladder import CAVEAT, shows_published
from loaderlab.compare.pairs import not_shown_worse, num_learning_pairs
from loaderlab.compare.stats import LEAST_PAIRS, Ratio, median
from loaderlab.report.capacity_sentences import capacity_sentences

MEMORY = metrics.metric(metrics.HOST_PEAK_MIB)
CORES = metrics.metric(metrics.CPU_PCT)
CAPACITY = "capacity"  # the study of workers and emulated accelerators
REPEATS = "repeat=1,2,3"
LINE = re.compile(r"\S+:\d+ \S+")  # in the sentence on a slow line: augment.py:88 elastic_deform


def interval(gain: Ratio) -> str:
    """``95 % CI 1.20 to 1.43, n = 3``; with fewer than three pairs ``n = 2, too few for a confidence interval``."""
    if gain.low is None:
        return f"n = {gain.num_pairs}, too few for a confidence interval"
    return f"95 % CI {gain.low:.2f} to {gain.high:.2f}, n = {gain.num_pairs}"


def compared(gain: Ratio | None, arm: Arm, other: str) -> str:
    """``1.31x as fast as native (95 % CI 1.20 to 1.43, n = 3)``."""
    if gain is None:
        return f"not compared with {other}, since they have no repeat in common"
    adjective = "energy-efficient" if arm.metric == metrics.JOULES_PER_SAMPLE else "fast"
    return f"{gain.value:.2f}x as {adjective} as {other} ({interval(gain)})"


def headline(comparison: Comparison) -> list[str]:
    """The answer in a few sentences for each group."""
    lines = []
    for group in comparison.groups:
        work = group_name(comparison, group)
        lines += [f"{work}: {text}" if work else text for text in _group_sentences(group, comparison)]
    return lines


def remarks(comparison: Comparison) -> list[str]:
    """The caveats: of the whole comparison, of each arm, of the study. And the slowest line of each arm's loader, if it was profiled."""
    lines = list(comparison.notes)
    if len(comparison.groups) > 1:
        names = ", ".join(
            short(name) for name in dict.fromkeys(name for group in comparison.groups for name in group.work)
        )
        lines.append(
            f"different work is not compared: there are {len(comparison.groups)} tables, since the runs differ in {names}"
        )
    lines += [f"{arm.label}: {note}" for arm in comparison.arms for note in (*arm.notes, *_learning(arm))]
    lines += [f"{arm.label}: {line}" for arm in comparison.arms if (line := _slow_line(arm))]
    if shows_published(comparison):
        lines.append(CAVEAT)
    return lines


def _slow_line(arm: Arm) -> str:
    """The slowest line of the last profiled repeat, and in how many repeats it is the slowest one; empty without a profile."""
    texts = arm.tags("slow_line")
    lines = [line[0] if (line := LINE.search(text)) else "" for text in texts]
    if len(texts) < 2 or not lines[-1]:
        return texts[-1] if texts else ""
    return f"{texts[-1]} (the slowest line in {lines.count(lines[-1])} of {len(texts)} repeats)"


def _learning(arm: ComparedArm) -> list[str]:
    assert not arm.learning or arm.partner is not None
    return [f"learns differently from {arm.partner.label}: {text}" for text in arm.learning if arm.partner is not None]


def _group_sentences(group: Group, comparison: Comparison) -> list[str]:
    capacity = capacity_sentences(group, comparison)
    if capacity and comparison.study == CAPACITY:  # the study asks for nothing else
        return capacity
    lines = [_ranking(group, comparison)]
    if len(group.arms) > 1:
        best = _best(group)
        assert best is not None
        lines += [text for text in (_ceiling(best), _cost(best), _learned(best)) if text]
    cells = grid(group, comparison.columns)
    lines += [_hidden(hidden) for hidden in hidden_gains(cells)]
    for precision, loader, base, ratio in ceilings_that_differ(cells):
        lines.append(
            f"The ceilings of {precision} differ: that of {loader} is {ratio.value:.2f}x that of {base} ({interval(ratio)}). "
            "Something other than loading differs, such as the cores left for the step or the memory format of the batches."
        )
    if (points := curve(group, comparison.columns)) is not None:
        lines += _knee(points)
    return [*lines, *capacity]


def _more(comparison: Comparison) -> str:
    """The command-line arguments that run the missing repeats."""
    return "-m resume=latest" if any(entry.not_reached for entry in comparison.missing) else REPEATS


def _best(group: Group) -> ComparedArm | None:
    arms = [arm for arm in group.arms if not arm.is_ceiling] or group.arms
    sign = 1 if metrics.higher_is_better(group.arms[0].metric) else -1
    return max(arms, key=lambda arm: sign * median(arm.values), default=None)


def measured(arm: ComparedArm) -> str:
    """``200 samples/s (range 198 to 202, n = 3)``: the median, the range and the number of runs."""
    metric, values = metrics.metric(arm.metric), arm.values
    if len(values) == 1:
        return f"{metric.quantity(values[0])} (n = 1)"
    extent = f"{metric.number(min(values))} to {metric.number(max(values))}"
    return f"{metric.quantity(median(values))} (range {extent}, n = {len(values)})"


def _adjectives(metric: str) -> tuple[str, str, str]:
    """The words for best, better and worse in this metric."""
    if metric == metrics.JOULES_PER_SAMPLE:
        return "the most energy-efficient", "more energy-efficient", "less energy-efficient"
    return "the fastest", "faster", "slower"


def _ranking(group: Group, comparison: Comparison) -> str:
    best = _best(group)
    assert best is not None
    if len(group.arms) == 1:
        where = " in this group" if len(comparison.groups) > 1 else ""
        return f"Only one arm{where}: {best.label}, {measured(best)}. There is no other arm to compare it with."
    if sum(arm.is_baseline for arm in group.arms) > 1:
        return _several_baselines(group, best)
    if best.is_baseline:
        return _baseline_is_best(group, best, comparison)
    if best.partner is None:
        return f"{best.label} has the best median: {measured(best)}. This group has no baseline, so there are no gains."
    return _another_is_best(group, best, best.partner.label, comparison)


def _baseline_is_best(group: Group, best: ComparedArm, comparison: Comparison) -> str:
    most, more, less = _adjectives(best.metric)
    others = [arm for arm in group.arms if arm is not best and not arm.is_ceiling]
    gains = [(arm, arm.gain) for arm in others if arm.partner is best and arm.gain is not None]
    if better := [(arm, gain) for arm, gain in gains if gain.above]:
        arm, gain = better[0]
        return (
            f"{best.label}, the baseline, has the best median: {measured(best)}. But in their common repeats, {arm.label} is "
            f"{compared(gain, arm, best.label)}."
        )
    if not others:
        return f"{best.label}: {measured(best)}."
    if all(arm.gain is None or arm.gain.low is None for arm in group.arms if arm is not best):
        return (
            f"{best.label}, the baseline, has the best median: {measured(best)}. A claim needs at least {LEAST_PAIRS} repeats. "
            f"Type: {_more(comparison)}"
        )
    if sum(gain.below for _, gain in gains) == len(others):
        return f"{best.label}, the baseline, is {most}: {measured(best)}. Every other arm is {less}."
    return f"No arm is shown to be {more} than {best.label}, the baseline: {measured(best)}."


def _another_is_best(group: Group, best: ComparedArm, base: str, comparison: Comparison) -> str:
    gain = best.gain
    if gain is None:
        return f"{best.label} has the best median: {measured(best)}. It has no repeat in common with {base}."
    most, over_base = _adjectives(best.metric)[0], compared(gain, best, base)
    if gain.low is None:
        return f"{best.label} is {over_base}. A claim needs at least {LEAST_PAIRS} repeats. Type: {_more(comparison)}"
    if best.strict is not None and best.strict.above:
        if not (equals := not_shown_worse(group, best)):
            return f"{best.label} is {most}: {over_base}, with {measured(best)}."
        labels = _some([arm.label for arm in equals])
        return f"{best.label} is {over_base}, with {measured(best)}. No difference shown between it and {labels}."
    if gain.above:
        num_arms = len([arm for arm in group.arms if not arm.is_ceiling])
        return (
            f"{best.label} seems to be {most}: {over_base}. As the best of {num_arms} arms it may be ahead by chance. "
            "More repeats are needed."
        )
    if gain.below:
        return f"{best.label} has the best median, but in their common repeats it is {over_base}."
    return f"No difference shown: {best.label} has the best median and is {over_base}."


def _several_baselines(group: Group, best: ComparedArm) -> str:
    """The sentences for a group in which each arm is compared with its own baseline."""
    gains = []
    for arm in group.arms:
        if arm.partner is None or arm.is_ceiling:
            continue
        unclear = arm.gain is not None and arm.gain.low is not None and not arm.gain.shown
        gains.append(
            f"{arm.label}: {compared(arm.gain, arm, arm.partner.label)}{', no difference shown' if unclear else ''}"
        )
    if not gains:
        return f"{best.label} has the best median: {measured(best)}. No arm is compared with another."
    return f"{'; '.join(gains)}. {best.label} has the best median: {measured(best)}."


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _ceiling(arm: ComparedArm) -> str:
    share = arm.reliable_median(metrics.EFFICIENCY_PCT)
    if share is None:
        return ""
    headroom = arm.reliable_median(metrics.HEADROOM_X) or 100 / share
    if arm.verdict == "fed":
        return "Its verdict is fed: a faster loader would gain little or nothing."
    if arm.verdict == "inconclusive":
        return f"It is not clear what a faster loader would gain. Its verdict is {arm.verdicts}."
    efficiency, gain = metrics.metric(metrics.EFFICIENCY_PCT), metrics.metric(metrics.HEADROOM_X)
    if headroom <= 1.05:
        capped_share = efficiency.quantity(min(share, 100))
        return f"It runs at {capped_share} of its ceiling: a faster loader would gain almost nothing."
    return f"It runs at {efficiency.quantity(share)} of its ceiling: with a perfect loader it would run {gain.quantity(headroom)} as fast."


def _cost(arm: ComparedArm) -> str:
    if arm.partner is None:
        return ""
    parts = []
    own, other = arm.median(metrics.HOST_PEAK_MIB), arm.partner.median(metrics.HOST_PEAK_MIB)
    if own and other and abs(own - other) >= 10:
        parts.append(f"{MEMORY.quantity(own)} of host memory instead of {MEMORY.number(other)}")
    own, other = arm.median(metrics.CPU_PCT), arm.partner.median(metrics.CPU_PCT)
    if own and other and abs(own - other) >= 5:
        parts.append(f"{CORES.text(own)} instead of {CORES.quantity(other)}")
    return f"It uses {' and '.join(parts)}." if parts else ""


def _learned(arm: ComparedArm) -> str:
    if arm.partner is None or arm.gain is None or arm.gain.low is None:
        return ""
    if arm.learning:
        return f"But it learns differently from {arm.partner.label}: {'; '.join(arm.learning)}."
    if arm.is_ceiling or num_learning_pairs(arm) < LEAST_PAIRS:
        return ""
    return "No difference in learning shown."


def _hidden(hidden: Hidden) -> str:
    at_ceiling, with_loader = hidden.at_ceiling, hidden.with_loader
    text = f"{hidden.precision} over {hidden.over}: {at_ceiling.value:.2f}x at the ceiling, {with_loader.value:.2f}x with {hidden.loader}"
    if not at_ceiling.above:
        if at_ceiling.low is None:
            return f"{text} ({interval(at_ceiling)})."
        return f"{text}: no gain is shown at the ceiling, so the loader has none to hide."
    share = (at_ceiling.value - with_loader.value) / (at_ceiling.value - 1)
    if not with_loader.above:
        if with_loader.high is None or with_loader.high >= at_ceiling.value:
            return f"{text}: the runs are too noisy to show whether the loader hides the gain."
        return f"{text}: the loader hides the gain, since none is shown with it."
    if with_loader.value >= at_ceiling.value / 1.05:
        return f"{text}: the loader does not hide the gain."
    return f"{text}: the loader hides {100 * share:.0f} % of the gain."


def _knee(points: Curve) -> list[str]:
    """The sentence on the fewest workers that are enough; none if there are too few repeats."""
    (count, arm), (best_count, best) = points.knee, points.best
    if not points.has_enough_repeats:
        return []
    unit = points.setting.rpartition(".")[2].removeprefix("num_").removesuffix("s")
    named = f"{count} {unit}{'s' * (count != 1)}"
    if count == points.arms[0][0]:
        return [f"By the medians, {named} {'is' if count == 1 else 'are'} enough: more gain less than 5 %."]
    text = f"By the medians, the knee is at {named}"
    text += ", the best count" if count == best_count else f", within 5 % of the best count ({best_count})"
    own, other = arm.reliable_median(metrics.HOST_PEAK_MIB), best.reliable_median(metrics.HOST_PEAK_MIB)
    text += f", with {MEMORY.quantity(other - own)} less memory" if own and other and other - own >= 1 else ""
    return [f"{text}. Fewer {unit}s are {'slower' if points.shown else 'not shown to be slower'}."]

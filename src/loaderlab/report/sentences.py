"""A comparison in words: which arm is faster, by how much, how near to the ceiling, at what cost, and what was learned."""

from __future__ import annotations

from loaderlab import metrics
from loaderlab.compare.arms import ComparedArm, Comparison, Group, short
from loaderlab.compare.axes import Curve, Hidden, ceilings_that_differ, curve, grid, hidden_gains
from loaderlab.compare.ladder import CAVEAT
from loaderlab.compare.pairs import learning_rounds, not_shown_worse
from loaderlab.compare.stats import LEAST_PAIRS, Ratio, median

MEMORY = metrics.metric(metrics.HOST_PEAK_MIB)
CORES = metrics.metric(metrics.CPU_PCT)
REPEATS = "repeat=1,2,3"


def times(gain: Ratio | None) -> str:
    """``1.31x (1.20 to 1.43, n = 3)``."""
    if gain is None:
        return "–"
    if gain.low is None:
        return f"{gain.value:.2f}x (n = {gain.num_pairs}, nothing claimed)"
    return f"{gain.value:.2f}x ({gain.low:.2f} to {gain.high:.2f}, n = {gain.num_pairs})"


def headline(comparison: Comparison) -> list[str]:
    """The answer in a few sentences, group by group."""
    lines = []
    for group in comparison.groups:
        where = ", ".join(f"{short(name)} {value}" for name, value in group.work.items())
        lines += [f"{where}: {text}" if where else text for text in _of(group, comparison)]
    return lines


def remarks(comparison: Comparison) -> list[str]:
    """What a reader should know before believing it: of the whole, then of each arm, then what was not measured."""
    lines = list(comparison.notes)
    if len(comparison.groups) > 1:
        names = ", ".join(
            short(name) for name in dict.fromkeys(name for group in comparison.groups for name in group.work)
        )
        lines.append(f"unlike work is not compared: {len(comparison.groups)} tables, since the runs differ in {names}")
    lines += [f"{arm.label}: {note}" for arm in comparison.arms for note in (*arm.notes, *_learns(arm))]
    if comparison.study == "ladder":
        lines.append(CAVEAT)
    return lines


def _learns(arm: ComparedArm) -> list[str]:
    assert not arm.learning or arm.partner is not None
    return [f"learns differently from {arm.partner.label}: {text}" for text in arm.learning if arm.partner is not None]


def _of(group: Group, comparison: Comparison) -> list[str]:
    lines = [_fastest(group, comparison)]
    if len(group.arms) > 1:
        best = _best(group)
        assert best is not None
        lines += [text for text in (_ceiling(best), _cost(best), _learned(best)) if text]
    cells = grid(group, comparison.columns)
    lines += [_hidden(hidden) for hidden in hidden_gains(cells)]
    for precision, loader, base, ratio in ceilings_that_differ(cells):
        lines.append(
            f"The ceilings of {precision} are not the same: {loader} has {times(ratio)} that of {base}. Something else than the "
            "loader differs, such as the cores that it leaves to the step, or the memory format of its batches."
        )
    if (points := curve(group, comparison.columns)) is not None:
        lines += _knee(points)
    return lines


def _more(comparison: Comparison) -> str:
    """What to type for the rounds that are wanting."""
    return "-m resume=latest" if any(entry.not_reached for entry in comparison.missing) else REPEATS


def _best(group: Group) -> ComparedArm | None:
    arms = [arm for arm in group.arms if not arm.is_ceiling] or group.arms
    sign = 1 if metrics.higher_is_better(group.arms[0].metric) else -1
    return max(arms, key=lambda arm: sign * median(arm.values), default=None)


def measured(arm: ComparedArm) -> str:
    """Its median with unit, its range and n."""
    metric, values = metrics.metric(arm.metric), arm.values
    if len(values) == 1:
        return f"{metric.quantity(values[0])} (n = 1)"
    extent = f"{metric.number(min(values))} to {metric.number(max(values))}"
    return f"{metric.quantity(median(values))} ({extent}, n = {len(values)})"


def _words(metric: str) -> tuple[str, str, str]:
    """Best, better and worse in this metric."""
    if metric == metrics.JOULES_PER_SAMPLE:
        return "the most frugal", "more frugal", "less frugal"
    return "the fastest", "faster", "slower"


def _fastest(group: Group, comparison: Comparison) -> str:
    best = _best(group)
    assert best is not None
    if len(group.arms) == 1:
        why = " of this work" if len(comparison.groups) > 1 else ""
        return f"One arm{why}: {best.label}, {measured(best)}. There is nothing to compare it with."
    if sum(arm.is_baseline for arm in group.arms) > 1:
        return _twins(group, best)
    if best.is_baseline:
        return _baseline_is_best(group, best, comparison)
    if best.partner is None:
        return f"The best median is that of {best.label}, {measured(best)}. No arm of this work is the baseline: no gain can be told."
    return _another_is_best(group, best, best.partner.label, comparison)


def _baseline_is_best(group: Group, best: ComparedArm, comparison: Comparison) -> str:
    most, more, less = _words(best.metric)
    others = [arm for arm in group.arms if arm is not best and not arm.is_ceiling]
    gains = [(arm, arm.gain) for arm in others if arm.partner is best and arm.gain is not None]
    if faster := [(arm, gain) for arm, gain in gains if gain.above]:
        return (
            f"{best.label}, the baseline, has the best median, {measured(best)}, and yet in the rounds that both have "
            f"{faster[0][0].label} is shown to be {more}: {times(faster[0][1])}."
        )
    if not others:
        return f"{best.label}: {measured(best)}."
    if all(arm.gain is None or arm.gain.low is None for arm in group.arms if arm is not best):
        return (
            f"{best.label}, the baseline, has the best median, {measured(best)}; fewer than {LEAST_PAIRS} rounds claim "
            f"nothing. Type: {_more(comparison)}"
        )
    if sum(gain.below for _, gain in gains) == len(others):
        return f"{best.label}, the baseline, is {most}: {measured(best)}. Every other arm is shown to be {less}."
    return f"No arm is shown to be {more} than {best.label}, the baseline: {measured(best)}."


def _another_is_best(group: Group, best: ComparedArm, base: str, comparison: Comparison) -> str:
    most, more, less = _words(best.metric)
    gain = best.gain
    if gain is None:
        return f"{best.label} has the best median, {measured(best)}; it has no round in common with {base}."
    if gain.low is None:
        return (
            f"{best.label} ran at {gain.value:.2f}x of {base} in {gain.num_pairs} round{'s' * (gain.num_pairs > 1)}: fewer than "
            f"{LEAST_PAIRS} claim nothing. Type: {_more(comparison)}"
        )
    if best.strict is not None and best.strict.above:
        if not (equals := not_shown_worse(group, best)):
            return f"{best.label} is {most}: {times(gain)} {base}, at {measured(best)}."
        return (
            f"{best.label} is shown to be {more} than {base}: {times(gain)}, at {measured(best)}. Not told apart from it: "
            f"{_some([arm.label for arm in equals])}."
        )
    if gain.above:
        arms = len([arm for arm in group.arms if not arm.is_ceiling])
        return (
            f"{best.label} seems {most}, {times(gain)} {base}; as the best of {arms} arms it may be so by chance. "
            "More repeats would tell."
        )
    if gain.below:
        return f"{best.label} is shown to be {less} than {base}, in the rounds that both have: {times(gain)}."
    return f"No difference shown: {best.label}, with the best median, ran at {times(gain)} {base}."


def _twins(group: Group, best: ComparedArm) -> str:
    """Where each arm is compared with a baseline of its own."""
    compared = [arm for arm in group.arms if arm.partner is not None and not arm.is_ceiling]
    gains = []
    for arm in compared:
        assert arm.partner is not None
        shown = arm.gain is None or arm.gain.low is None or arm.gain.shown
        gains.append(f"{arm.label} {times(arm.gain)} {arm.partner.label}{'' if shown else ', no difference shown'}")
    if not gains:
        return f"The best median is that of {best.label}, {measured(best)}. No arm is held against another."
    return f"{'; '.join(gains)}. The best median is that of {best.label}, {measured(best)}."


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _ceiling(arm: ComparedArm) -> str:
    share = arm.settled(metrics.EFFICIENCY_PCT)
    if share is None:
        return ""
    headroom = arm.settled(metrics.HEADROOM_X) or 100 / share
    if arm.verdict == "fed":
        return "By its verdict it is fed: a faster loader has little or nothing more to give."
    if arm.verdict == "inconclusive":
        return f"What a faster loader could still give is not clear; its verdict: {arm.verdicts}."
    efficiency, gain = metrics.metric(metrics.EFFICIENCY_PCT), metrics.metric(metrics.HEADROOM_X)
    if headroom <= 1.05:
        most = efficiency.quantity(min(share, 100))
        return f"It runs at {most} of its ceiling: a faster loader has nothing more to give."
    return f"It runs at {efficiency.quantity(share)} of its ceiling: a perfect loader could still give {gain.quantity(headroom)}."


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
    return f"What it takes: {' and '.join(parts)}." if parts else ""


def _learned(arm: ComparedArm) -> str:
    if arm.partner is None or arm.gain is None or arm.gain.low is None:
        return ""
    if arm.learning:
        return f"But it learns differently: {'; '.join(arm.learning)} of {arm.partner.label}."
    if arm.is_ceiling or learning_rounds(arm) < LEAST_PAIRS:
        return ""
    return "No difference in what it learns is shown."


def _hidden(hidden: Hidden) -> str:
    at_ceiling, with_loader = hidden.at_ceiling, hidden.with_loader
    text = f"{hidden.precision} over {hidden.over}: {at_ceiling.value:.2f}x at the ceiling, {with_loader.value:.2f}x with {hidden.loader}"
    if not at_ceiling.above:
        if at_ceiling.low is None:
            return f"{text} (n = {at_ceiling.num_pairs}, nothing claimed)."
        return f"{text}: at the ceiling no gain is shown, so there is none for a loader to hide."
    share = (at_ceiling.value - with_loader.value) / (at_ceiling.value - 1)
    if not with_loader.above:
        if with_loader.high is None or with_loader.high >= at_ceiling.value:
            return f"{text}: the runs are too noisy to tell whether the loader hides it."
        return f"{text}: no gain is shown with the loader, which hides it."
    if with_loader.value >= at_ceiling.value / 1.05:
        return f"{text}: the loader lets it through."
    return f"{text}: the loader hides {100 * share:.0f} % of it."


def _knee(points: Curve) -> list[str]:
    """Nothing where there are too few rounds to speak of one."""
    (count, arm), (most, best) = points.knee, points.best
    if not points.settled:
        return []
    unit = points.setting.rpartition(".")[2].removeprefix("num_").removesuffix("s")
    named = f"{count} {unit}{'s' * (count != 1)}"
    if count == points.arms[0][0]:
        return [f"By the medians {named} {'is' if count == 1 else 'are'} enough: more bring less than 5 %."]
    text = f"By the medians the knee lies at {named}"
    text += ", the best count" if count == most else f", within 5 % of the best count, {most}"
    own, other = arm.settled(metrics.HOST_PEAK_MIB), best.settled(metrics.HOST_PEAK_MIB)
    text += f", with {MEMORY.quantity(other - own)} less" if own and other and other - own >= 1 else ""
    return [f"{text}; that fewer are slower is {'shown' if points.shown else 'not shown'}."]

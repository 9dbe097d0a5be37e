"""Compares two arms by the repeats that both have: the gain of one over the other, and differences in learning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from loaderlab import metrics
from loaderlab.compare.arms import Arm, ComparedArm, Group
from loaderlab.compare.stats import CONFIDENCE, Ratio, ratio
from loaderlab.tracking.records import RunRecord

LEARNING = (metrics.VAL_LOSS, metrics.VAL_ACCURACY)


def baselines(arms: Sequence[Arm], baseline: Mapping[str, str] | None) -> list[Arm]:
    """The arms that others are compared with.

    Args:
        arms: of one group; at least one.
        baseline: setting to value; None means the first arm with a loader.
    """
    if baseline is None:
        return [next((arm for arm in arms if not arm.is_ceiling), arms[0])]
    return [arm for arm in arms if all(arm.runs[0].settings.get(name) == value for name, value in baseline.items())]


def partner_of(arm: Arm, bases: Sequence[Arm], others: Sequence[str]) -> Arm | None:
    """The only baseline, or the one that has the same values in all ``others`` that both have; None if there is no such one."""
    if len(bases) == 1:
        return bases[0]
    agreeing = [
        base
        for base in bases
        if all(
            arm.settings[name] == base.settings[name]
            for name in others
            if None not in (arm.settings[name], base.settings[name])
        )
    ]
    return agreeing[0] if len(agreeing) == 1 else None


def _by_repeat(runs: Iterable[RunRecord], *, of_sweeps: bool) -> dict[tuple[str | None, int, int], RunRecord]:
    """Runs by (sweep, effective seed, number of earlier runs with the same sweep and seed)."""
    repeats: dict[tuple[str | None, int, int], RunRecord] = {}
    for run in sorted(runs, key=lambda run: run.started_ms):
        sweep = run.parent_id if of_sweeps else None
        seed = int(run.settings.get("seed", 0)) + int(run.settings.get("repeat", 0))
        num_earlier = sum(1 for known in repeats if known[:2] == (sweep, seed))
        repeats[sweep, seed, num_earlier] = run
    return repeats


def paired_runs(arm: Arm, base: Arm) -> list[tuple[RunRecord, RunRecord]]:
    """The runs of both arms in their common repeats: within the sweeps that they share, otherwise by seed alone."""
    shared = {run.parent_id for run in arm.runs} & {run.parent_id for run in base.runs}
    own, other = (
        _by_repeat((run for run in entry.runs if not shared or run.parent_id in shared), of_sweeps=bool(shared))
        for entry in (arm, base)
    )
    return [(own[key], other[key]) for key in own if key in other]


def paired_values(arm: Arm, base: Arm, metric: str) -> list[tuple[float, float]]:
    """The metric of both arms in their common repeats; pairs with a value of 0 or less have no ratio and are left out."""
    pairs = [(own.figures.get(metric, 0.0), other.figures.get(metric, 0.0)) for own, other in paired_runs(arm, base)]
    return [pair for pair in pairs if min(pair) > 0]


def gain(arm: Arm, base: Arm, confidence: float = CONFIDENCE) -> Ratio | None:
    """How many times better an arm is than another, paired by repeat; None if they have no repeat in common."""
    pairs = paired_values(arm, base, arm.metric)
    if not pairs:
        return None
    if not metrics.higher_is_better(arm.metric):
        pairs = [(second, first) for first, second in pairs]
    return ratio(pairs, confidence)


def not_shown_worse(group: Group, best: Arm) -> list[ComparedArm]:
    """The other arms with a loader that are not shown to be worse than this one."""
    gains = [(arm, gain(best, arm)) for arm in group.arms if arm is not best and not arm.is_ceiling]
    return [arm for arm, over in gains if over is None or not over.above]


def learning_differences(arm: Arm, base: Arm) -> list[str]:
    """Differences in learning, one text for each: in validation loss and accuracy; without validation, in training loss."""
    differences = _failed_in_one_arm(arm, base)
    pairs_of = _learning_pairs(arm, base)
    level = 1 - (1 - CONFIDENCE) / len(pairs_of)
    for name, pairs in pairs_of.items():
        if pairs and (change := ratio(pairs, level)).shown:
            label = metrics.metric(name).short_label
            interval = f"{100 * level:.3g} % CI {change.low:.3f} to {change.high:.3f}"
            differences.append(f"{label} {change.value:.3f}x ({interval})")
    return differences


def _learning_pairs(arm: Arm, base: Arm) -> dict[str, list[tuple[float, float]]]:
    """The metrics by which learning is compared, with the paired values of both arms."""
    validated = {name: pairs for name in LEARNING if (pairs := paired_values(arm, base, name))}
    return validated or {metrics.TRAIN_LOSS: paired_values(arm, base, metrics.TRAIN_LOSS)}


def num_learning_pairs(arm: ComparedArm) -> int:
    """The number of repeats in which an arm's learning can be compared with its partner's."""
    if arm.partner is None:
        return 0
    return min(map(len, _learning_pairs(arm, arm.partner).values()))


def _failed_in_one_arm(arm: Arm, base: Arm) -> list[str]:
    """Failures of only one of two arms: a loss that is NaN or infinite, or an accuracy of 0. One text for each."""
    pairs = paired_runs(arm, base)
    differences = []
    for name, fails, value in (
        (metrics.TRAIN_LOSS, is_not_finite, "NaN or infinite"),
        (metrics.VAL_LOSS, is_not_finite, "NaN or infinite"),
        (metrics.VAL_ACCURACY, _is_zero, "0"),
    ):
        failed = [(fails(own, name), fails(other, name)) for own, other in pairs]
        label = metrics.metric(name).short_label
        for owner, count in (("", failed.count((True, False))), (f" of {base.label}", failed.count((False, True)))):
            if count:
                differences.append(f"{label}{owner} is {value} in {count} of {len(pairs)} repeats")
    return differences


def is_not_finite(run: RunRecord, name: str) -> bool:
    """Whether a metric of a run ended as NaN or infinity."""
    return name in run.not_finite


def _is_zero(run: RunRecord, name: str) -> bool:
    return run.figures.get(name, 1.0) <= 0

"""Who is how many times better than whom, and did both learn the same? By the rounds that two arms have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from loaderlab import metrics
from loaderlab.compare.arms import Arm, Group
from loaderlab.compare.stats import CONFIDENCE, Ratio, ratio
from loaderlab.tracking.records import RunRecord

LEARNING = (metrics.VAL_LOSS, metrics.VAL_ACCURACY)
LEARNED = {
    metrics.VAL_LOSS: "validation loss",
    metrics.VAL_ACCURACY: "validation accuracy",
    metrics.TRAIN_LOSS: "training loss",
}


def pair(group: Group, baseline: Mapping[str, str] | None, columns: Sequence[str]) -> None:
    if baseline is None:
        first = next((arm for arm in group.arms if not arm.is_ceiling), group.arms[0])
        bases = [first]
    else:
        bases = [
            arm
            for arm in group.arms
            if all(arm.runs[0].settings.get(name) == value for name, value in baseline.items())
        ]
    others = [name for name in columns if name not in (baseline or {})]
    group.baseline = bases[0] if len(bases) == 1 else None
    for base in bases:
        base.is_baseline = True
    compared = [arm for arm in group.arms if arm not in bases]
    candidates = [arm for arm in compared if not arm.is_ceiling]
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(candidates))
    for arm in compared:
        arm.partner = _partner(arm, bases, others)
        if arm.partner is None:
            continue
        arm.gain = gain(arm, arm.partner)
        arm.strict = gain(arm, arm.partner, confidence)
        if not arm.is_ceiling and not arm.partner.is_ceiling:
            arm.learning = _learning(arm, arm.partner)


def _partner(arm: Arm, bases: Sequence[Arm], others: Sequence[str]) -> Arm | None:
    """The only baseline, or the one that agrees in every other setting that both have."""
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


def _rounds(runs: Iterable[RunRecord], *, of_sweeps: bool) -> dict[tuple[str | None, int, int], RunRecord]:
    """Runs by (sweep, seed in force, how many runs of it had that seed before)."""
    found: dict[tuple[str | None, int, int], RunRecord] = {}
    for run in sorted(runs, key=lambda run: run.started_ms):
        sweep = run.parent_id if of_sweeps else None
        seed = int(run.settings.get("seed", 0)) + int(run.settings.get("repeat", 0))
        again = sum(1 for known in found if known[:2] == (sweep, seed))
        found[sweep, seed, again] = run
    return found


def together(arm: Arm, base: Arm) -> list[tuple[RunRecord, RunRecord]]:
    """The runs of both in the rounds that both have: of the same sweep where they share one, else of the same seed."""
    shared = {run.parent_id for run in arm.runs} & {run.parent_id for run in base.runs}
    own, other = (
        _rounds((run for run in entry.runs if not shared or run.parent_id in shared), of_sweeps=bool(shared))
        for entry in (arm, base)
    )
    return [(own[key], other[key]) for key in own if key in other]


def paired(arm: Arm, base: Arm, metric: str) -> list[tuple[float, float]]:
    """Figures of both in the rounds that both have; what is not above 0 makes no ratio."""
    pairs = [(own.figures.get(metric, 0.0), other.figures.get(metric, 0.0)) for own, other in together(arm, base)]
    return [pair for pair in pairs if min(pair) > 0]


def not_told_apart(group: Group, best: Arm) -> list[Arm]:
    """The other arms with a loader that are not shown to be worse than this one."""
    others = [arm for arm in group.arms if arm is not best and not arm.is_ceiling]
    gains = [(arm, gain(best, arm)) for arm in others]
    return [arm for arm, found in gains if found is None or not found.above]


def gain(arm: Arm, base: Arm, confidence: float = CONFIDENCE) -> Ratio | None:
    """How many times better an arm is than another, paired by round; None where they have none in common."""
    pairs = paired(arm, base, arm.metric)
    if not pairs:
        return None
    if not metrics.higher_is_better(arm.metric):
        pairs = [(second, first) for first, second in pairs]
    return ratio(pairs, confidence)


def _learning(arm: Arm, base: Arm) -> list[str]:
    """What shows that they did not learn the same: by validation where there is one, else by the training loss."""
    told = _lost(arm, base)
    by = _learned_by(arm, base)
    for name, pairs in by.items():
        if pairs and (found := ratio(pairs, 1 - (1 - CONFIDENCE) / len(by))).shown:
            told.append(f"{LEARNED[name]} {found.value:.3f}x ({found.low:.3f} to {found.high:.3f})")
    return told


def _learned_by(arm: Arm, base: Arm) -> dict[str, list[tuple[float, float]]]:
    """The figures by which learning is compared, with their pairs."""
    validated = {name: pairs for name in LEARNING if (pairs := paired(arm, base, name))}
    return validated or {metrics.TRAIN_LOSS: paired(arm, base, metrics.TRAIN_LOSS)}


def learning_rounds(arm: Arm) -> int:
    """Rounds in which what it learned could be held against what its partner did."""
    if arm.partner is None:
        return 0
    return min(map(len, _learned_by(arm, arm.partner).values()))


def _lost(arm: Arm, base: Arm) -> list[str]:
    """Rounds in which only one of the two has a loss that is no number, or an accuracy of 0."""
    both = together(arm, base)
    told = []
    for name, fails, why in (
        (metrics.TRAIN_LOSS, no_number, "no number"),
        (metrics.VAL_LOSS, no_number, "no number"),
        (metrics.VAL_ACCURACY, _none_right, "0"),
    ):
        failed = [(fails(own, name), fails(other, name)) for own, other in both]
        for whose, count in (("", failed.count((True, False))), (f" of {base.label}", failed.count((False, True)))):
            if count:
                told.append(f"{LEARNED[name]}{whose} is {why} in {count} of {len(both)} rounds")
    return told


def no_number(run: RunRecord, name: str) -> bool:
    return name in run.not_finite


def _none_right(run: RunRecord, name: str) -> bool:
    return run.figures.get(name, 1.0) <= 0

"""How many times better is one arm than another, and did both learn the same? By the rounds that both have."""

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
        baseline: setting to value; None: the first arm with a loader.
    """
    if baseline is None:
        return [next((arm for arm in arms if not arm.is_ceiling), arms[0])]
    return [arm for arm in arms if all(arm.runs[0].settings.get(name) == value for name, value in baseline.items())]


def partner_of(arm: Arm, bases: Sequence[Arm], others: Sequence[str]) -> Arm | None:
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
    rounds: dict[tuple[str | None, int, int], RunRecord] = {}
    for run in sorted(runs, key=lambda run: run.started_ms):
        sweep = run.parent_id if of_sweeps else None
        seed = int(run.settings.get("seed", 0)) + int(run.settings.get("repeat", 0))
        again = sum(1 for known in rounds if known[:2] == (sweep, seed))
        rounds[sweep, seed, again] = run
    return rounds


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


def gain(arm: Arm, base: Arm, confidence: float = CONFIDENCE) -> Ratio | None:
    """How many times better an arm is than another, paired by round; None where they have none in common."""
    pairs = paired(arm, base, arm.metric)
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
    """What shows that they did not learn the same: by validation where there is one, else by the training loss."""
    differences = _failed_on_one_side(arm, base)
    pairs_of = _learning_pairs(arm, base)
    for name, pairs in pairs_of.items():
        if pairs and (times := ratio(pairs, 1 - (1 - CONFIDENCE) / len(pairs_of))).shown:
            what = metrics.metric(name).short_label
            differences.append(f"{what} {times.value:.3f}x ({times.low:.3f} to {times.high:.3f})")
    return differences


def _learning_pairs(arm: Arm, base: Arm) -> dict[str, list[tuple[float, float]]]:
    """The metrics by which learning is compared, with their pairs."""
    validated = {name: pairs for name in LEARNING if (pairs := paired(arm, base, name))}
    return validated or {metrics.TRAIN_LOSS: paired(arm, base, metrics.TRAIN_LOSS)}


def learning_rounds(arm: ComparedArm) -> int:
    """Rounds in which what it learned can be compared with what its partner learned."""
    if arm.partner is None:
        return 0
    return min(map(len, _learning_pairs(arm, arm.partner).values()))


def _failed_on_one_side(arm: Arm, base: Arm) -> list[str]:
    """Rounds in which only one of the two has a loss that is no number, or an accuracy of 0."""
    both = together(arm, base)
    differences = []
    for name, fails, why in (
        (metrics.TRAIN_LOSS, no_number, "no number"),
        (metrics.VAL_LOSS, no_number, "no number"),
        (metrics.VAL_ACCURACY, _none_right, "0"),
    ):
        failed = [(fails(own, name), fails(other, name)) for own, other in both]
        what = metrics.metric(name).short_label
        for whose, count in (("", failed.count((True, False))), (f" of {base.label}", failed.count((False, True)))):
            if count:
                differences.append(f"{what}{whose} is {why} in {count} of {len(both)} rounds")
    return differences


def no_number(run: RunRecord, name: str) -> bool:
    """Whether a metric of a run ended as NaN or infinity."""
    return name in run.not_finite


def _none_right(run: RunRecord, name: str) -> bool:
    return run.figures.get(name, 1.0) <= 0

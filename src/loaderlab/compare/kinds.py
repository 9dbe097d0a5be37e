"""Separates real runs from runs on emulated accelerators: a comparison has only one of the two kinds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from loaderlab import metrics
from loaderlab.compare.arms import Comparison, short
from loaderlab.compare.comparison import are_measured, compare, full_names, without_values
from loaderlab.config import EMULATED, UserError, refuse
from loaderlab.tracking.records import Missing, RunRecord

REAL, ON_EMULATED = "real devices", "emulated accelerators"
FILTERS = {  # overrides that select the runs of one kind, as typed in a shell
    emulated: f"""'filter="tags.`device.type` {sign} \\"{EMULATED}\\""'"""
    for emulated, sign in ((False, "!="), (True, "="))
}


def compare_kinds(
    title: str,
    runs: Sequence[RunRecord],
    missing: Iterable[Missing] = (),
    *,
    metric: str | None = None,
    baseline: Mapping[str, str] | None = None,
) -> list[Comparison]:
    """A comparison of the real runs and one of the runs on emulated accelerators, or only one if there is only one kind.

    Args:
        metric: the metric of the gains; None: the natural one of each kind's runs.
        title, runs, missing, baseline: see `compare`.

    Raises:
        UserError: no finished run has the metric, or the baseline matches no arm of a kind.
    """
    missing = list(missing)
    present = {run.is_emulated for run in runs} | {entry.is_emulated for entry in missing}
    kinds = sorted(present)  # real devices first
    if len(kinds) < 2:
        return [compare(title, runs, missing, metric=metric or natural_metric(runs), baseline=baseline)]
    runs_of = {kind: [run for run in runs if run.is_emulated is kind] for kind in kinds}
    metric_of = {kind: metric or natural_metric(runs_of[kind]) for kind in kinds}
    if not any(are_measured(runs_of[kind], metric_of[kind]) for kind in kinds):
        compare(title, runs_of[False], missing, metric=metric_of[False])  # raises
    if baseline is not None:
        _check_baseline(baseline, runs_of)
    comparisons = []
    for kind in kinds:
        absent = [entry for entry in missing if entry.is_emulated is kind]
        own_title = title if kind else f"{REAL}: {title}"
        if are_measured(runs_of[kind], metric_of[kind]):
            one = compare(own_title, runs_of[kind], absent, metric=metric_of[kind], baseline=baseline)
        else:
            one = without_values(own_title, runs_of[kind], absent, metric_of[kind], ON_EMULATED if kind else "")
        comparisons.append(one)
    return comparisons


def natural_metric(runs: Sequence[RunRecord]) -> str:
    """The training time for a ladder, since the published one uses it; otherwise the rate."""
    rungs = [run.settings.get("rung", "null") != "null" for run in runs if run.status == "FINISHED"]
    return metrics.TRAIN_S if rungs and all(rungs) else metrics.RATE


def has_kind_in_title(comparison: Comparison) -> bool:
    """Whether its title names the kind of its runs: the texts of two kinds follow each other, so they start with the title."""
    return comparison.is_emulated or comparison.title.startswith(REAL)


def check_sweep(baseline: str, base_name: str, runs: Sequence[RunRecord], others: Sequence[RunRecord]) -> None:
    """Checks that the baseline sweep has runs of each kind that is compared with it.

    Args:
        baseline: its run id.
        base_name: its name.
        runs: of the compared sweep.
        others: of the baseline sweep.

    Raises:
        UserError: it has real runs only, and the compared sweep has runs on emulated accelerators, or the reverse.
    """
    for kind in sorted({run.is_emulated for run in runs}):
        if others and not any(run.is_emulated is kind for run in others):
            raise _refused(baseline, f"is {base_name}, a sweep of {_named(not kind)}", kind)


def _check_baseline(baseline: Mapping[str, str], runs_of: Mapping[bool, Sequence[RunRecord]]) -> None:
    """Checks that the baseline matches runs of both kinds."""
    matches = {
        kind: any(
            all(run.settings.get(name) == value for name, value in full_names(baseline, runs).items()) for run in runs
        )
        for kind, runs in runs_of.items()
    }
    for kind, matched in matches.items():
        if not matched and matches[not kind]:
            text = ", ".join(f"{short(name)}:{value}" for name, value in baseline.items())
            raise _refused(text, f"matches only {_named(not kind)}", kind)


def _refused(baseline: str, why: str, kind: bool) -> UserError:
    rule = "runs on emulated accelerators are never compared with real devices"
    return refuse("baseline", baseline, f"{why}, and there are {_named(kind)} too: {rule}", FILTERS[not kind])


def _named(emulated: bool) -> str:
    return f"runs on {ON_EMULATED if emulated else REAL}"

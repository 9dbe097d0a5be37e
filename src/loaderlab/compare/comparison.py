"""From recorded runs to a comparison: which arms there are, which did the same work, and who is how many times faster.

Pure: records in, figures out. The arms are made in `arms`, held against each other in `pairs`, commented in `notes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from loaderlab import metrics
from loaderlab.compare.arms import Arm, Comparison, columns_of, grouped, short
from loaderlab.compare.notes import explain, notes_on
from loaderlab.compare.pairs import gain, pair
from loaderlab.config import UserError, refuse
from loaderlab.tracking.records import Missing, RunRecord


def compare(
    title: str,
    runs: Sequence[RunRecord],
    missing: Iterable[Missing] = (),
    *,
    metric: str = metrics.RATE,
    baseline: Mapping[str, str] | None = None,
) -> Comparison:
    """Compares runs.

    Args:
        title: of the whole.
        runs: in the order in which their arms are to stand; those that did not finish are told as missing.
        missing: jobs without a run, and why.
        metric: that gains are of.
        baseline: setting to value: the arms that others are held against; None: the first of each group.

    Raises:
        UserError: no finished run has the metric, or no arm is the baseline's.
    """
    measured = [run for run in runs if run.status == "FINISHED" and metric in run.figures]
    told = [*missing, *_not_measured(runs, metric)]
    if not measured:
        raise _nothing(runs, metric, told)
    columns = columns_of(measured)
    shown, groups = grouped(measured, columns, metric)
    arms = [arm for group in groups for arm in group.arms]
    if baseline is not None:
        known = {name for run in measured for name in run.settings}
        baseline = {f"{name}.name" if f"{name}.name" in known else name: value for name, value in baseline.items()}
        _check_baseline(baseline, arms, columns)
    for group in groups:
        pair(group, baseline, columns)
        if shown == ["rung"]:
            for before, arm in pairwise(group.arms):
                arm.over_previous = gain(arm, before)
        explain(group)
    notes = notes_on(measured)
    studies = {run.settings.get("study", "null") for run in measured}
    study = next(iter(studies)) if len(studies) == 1 and studies != {"null"} else None
    return Comparison(title, metric, shown, groups, told, notes, study)


def _not_measured(runs: Sequence[RunRecord], metric: str) -> list[Missing]:
    """Runs without a figure, unless the same job was finished at another time."""
    done = {
        (run.parent_id, run.tags["config.hash"])
        for run in runs
        if run.status == "FINISHED" and "config.hash" in run.tags
    }
    found = []
    for run in runs:
        if run.status == "FINISHED" and metric not in run.figures:
            found.append(Missing(run.name, f"finished without {metric}"))
        elif run.status != "FINISHED" and (run.parent_id, run.tags.get("config.hash")) not in done:
            why = run.tags.get("error", "")
            found.append(Missing(run.name, run.status.lower() + (f": {why}" if why else "")))
    return found


def _nothing(runs: Sequence[RunRecord], metric: str, told: Sequence[Missing]) -> UserError:
    if not runs and not told:
        return UserError(
            "there is no run to compare. Type: python -m experiments.train -m repeat=1,2,3 loader=native,dali"
        )
    listed = "; ".join(f"{entry.name}: {entry.why}" for entry in told[:5])
    known = sorted(
        {name for run in runs if run.status == "FINISHED" for name in run.figures if name in metrics.COMPARED}
        - {metric}
    )
    allowed = f"none of {len(runs)} runs has it ({listed})"
    return (
        refuse("metric", metric, allowed, f"metric={known[0]}") if known else UserError(f"metric={metric}: {allowed}.")
    )


def _check_baseline(baseline: Mapping[str, str], arms: Sequence[Arm], columns: Sequence[str]) -> None:
    for name, value in baseline.items():
        known = sorted({arm.runs[0].settings[name] for arm in arms if name in arm.runs[0].settings})
        if not known:
            settings = ", ".join(short(column) for column in columns) or "none"
            raise UserError(
                f"baseline={short(name)}:{value}: no run has this setting. Settings that differ: {settings}"
            )
        if value not in known:
            raise refuse(
                "baseline",
                f"{short(name)}:{value}",
                f"no arm has this value. {short(name)} is one of: {', '.join(known)}",
                f"baseline={short(name)}:{known[0]}",
            )

"""Makes the comparison: groups the runs into arms, pairs each arm with its baseline, lists jobs without a value.

Pure: records in, results out. `grouping` makes the arms, `pairs` compares two of them, `notes` adds caveats.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from loaderlab import metrics
from loaderlab.compare.arms import Arm, ComparedArm, Comparison, Group, short
from loaderlab.compare.grouping import columns_of, grouped, may_be_same_arm
from loaderlab.compare.marks import mark_of
from loaderlab.compare.notes import arm_notes, run_notes
from loaderlab.compare.pairs import baselines, gain, learning_differences, partner_of
from loaderlab.compare.stats import CONFIDENCE, Ratio
from loaderlab.config import UserError, refuse
from loaderlab.system.program import command
from loaderlab.tracking.records import Missing, RunRecord


def compare(
    title: str,
    runs: Sequence[RunRecord],
    missing: Iterable[Missing] = (),
    *,
    metric: str = metrics.RATE,
    baseline: Mapping[str, str] | None = None,
) -> Comparison:
    """The comparison of some runs.

    Args:
        title: of the comparison.
        runs: in the order in which their arms are listed; runs that did not finish become `Missing`.
        missing: jobs without a run, and why.
        metric: the metric of the gains.
        baseline: setting to value: the arms that others are compared with; None: the first arm of each group.

    Raises:
        UserError: no finished run has the metric, or no arm matches the baseline.
    """
    assert len({run.is_emulated for run in runs}) < 2, (
        "emulated and real runs are never in one table: see compare_kinds"
    )
    measured = _measured(runs, metric)
    unmeasured = [*missing, *_not_measured(runs, metric)]
    if not measured:
        raise _no_values(runs, metric, unmeasured)
    columns = columns_of(measured)
    shown, groups = grouped(measured, columns, metric)
    if baseline is not None:
        baseline = full_names(baseline, measured)
        _check_baseline(baseline, [arm for _, arms in groups for arm in arms], columns)
    others = [name for name in columns if name not in (baseline or {})]
    compared = [
        _group(work, arms, baselines(arms, baseline), others, is_ladder=shown == ["rung"]) for work, arms in groups
    ]
    mark, study = mark_of(measured), _study(measured)
    return Comparison(_title(title, mark, study), metric, shown, compared, unmeasured, run_notes(measured), study, mark)


def without_values(
    title: str, runs: Sequence[RunRecord], missing: Iterable[Missing], metric: str, mark: str
) -> Comparison:
    """A comparison of runs of which none has the metric: no tables, only the list of what was not measured."""
    return Comparison(
        _title(title, mark, None), metric, [], [], [*missing, *_not_measured(runs, metric)], [], mark=mark
    )


def are_measured(runs: Sequence[RunRecord], metric: str) -> bool:
    """Whether any of the runs finished with the metric."""
    return bool(_measured(runs, metric))


def full_names(baseline: Mapping[str, str], runs: Iterable[RunRecord]) -> dict[str, str]:
    """The baseline with the full name of each setting: ``loader.name`` for ``loader``."""
    known = {name for run in runs for name in run.settings}
    return {f"{name}.name" if f"{name}.name" in known else name: value for name, value in baseline.items()}


def _measured(runs: Iterable[RunRecord], metric: str) -> list[RunRecord]:
    return [run for run in runs if run.status == "FINISHED" and metric in run.figures]


def _title(title: str, mark: str, study: str | None) -> str:
    """``ladder, emulated feedforward accelerator: sweep study=ladder``; the plain title for real devices."""
    return f"{', '.join(part for part in (study, mark) if part)}: {title}" if mark else title


def _group(
    work: Mapping[str, str], arms: Sequence[Arm], bases: Sequence[Arm], others: Sequence[str], *, is_ladder: bool
) -> Group:
    """Arms that did the same work, each compared with its baseline and, in a ladder, with the previous rung.

    Args:
        bases: the baselines among the arms.
        others: the columns that the baseline does not fix; with several baselines, an arm and its partner agree in them.
    """
    steps_up = {arm: gain(arm, before) for before, arm in pairwise(arms)} if is_ladder else {}
    num_choices = sum(not arm.is_ceiling for arm in arms if arm not in bases)
    compared = {base: _baseline(base, steps_up.get(base)) for base in bases}  # a baseline has no partner
    for arm in arms:
        if arm not in compared:
            base = partner_of(arm, bases, others)
            compared[arm] = _compared(arm, None if base is None else compared[base], steps_up.get(arm), num_choices)
    baseline = compared[bases[0]] if len(bases) == 1 else None
    return Group(work, [compared[arm] for arm in arms], baseline)


def _baseline(arm: Arm, over_previous: Ratio | None) -> ComparedArm:
    return ComparedArm(
        arm.settings,
        arm.label,
        arm.runs,
        arm.metric,
        is_baseline=True,
        over_previous=over_previous,
        notes=arm_notes(arm, None, None),
    )


def _compared(arm: Arm, partner: ComparedArm | None, over_previous: Ratio | None, num_choices: int) -> ComparedArm:
    """An arm with its gain over its partner, if it has one; ``num_choices``: number of arms among which the best is chosen."""
    over, strict, learning = None, None, list[str]()
    if partner is not None:
        over = gain(arm, partner)
        strict = gain(arm, partner, 1 - (1 - CONFIDENCE) / max(1, num_choices))
        if not arm.is_ceiling and not partner.is_ceiling:
            learning = learning_differences(arm, partner)
    return ComparedArm(
        arm.settings,
        arm.label,
        arm.runs,
        arm.metric,
        partner=partner,
        gain=over,
        strict=strict,
        over_previous=over_previous,
        learning=learning,
        notes=arm_notes(arm, partner, over),
    )


def _study(runs: Sequence[RunRecord]) -> str | None:
    """The study that all runs belong to."""
    studies = {run.settings.get("study", "null") for run in runs}
    return next(iter(studies)) if len(studies) == 1 and studies != {"null"} else None


def _not_measured(runs: Sequence[RunRecord], metric: str) -> list[Missing]:
    """Runs without a value of the metric, unless another run of the same job finished."""
    done = {
        (run.parent_id, run.tags["config.hash"])
        for run in runs
        if run.status == "FINISHED" and "config.hash" in run.tags
    }
    unmeasured, measured = [], _measured(runs, metric)
    for run in runs:
        if run.status == "FINISHED" and metric not in run.figures:
            unmeasured.append(Missing(run.name, f"finished without {metric}"))
        elif run.status != "FINISHED" and (run.parent_id, run.tags.get("config.hash")) not in done:
            why = run.status.lower() + (f": {run.tags['error']}" if run.tags.get("error") else "")
            finished_arm = any(may_be_same_arm(run, other) for other in measured)
            unmeasured.append(Missing(run.name, why, has_finished_arm=finished_arm))
    return unmeasured


def _no_values(runs: Sequence[RunRecord], metric: str, unmeasured: Sequence[Missing]) -> UserError:
    if not runs and not unmeasured:
        return UserError(f"there is no run to compare. Type: {command('train')} -m repeat=1,2,3 loader=native,dali")
    listed = "; ".join(f"{entry.name}: {entry.why}" for entry in unmeasured[:5])
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

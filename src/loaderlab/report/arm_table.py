"""The table of a group's arms, as columns and rows of text."""

from __future__ import annotations

from loaderlab import metrics
from loaderlab.compare.arms import ComparedArm, Comparison, Group, short
from loaderlab.compare.group_names import group_name
from loaderlab.compare.ladder import PUBLISHED, RUNGS, shows_published
from loaderlab.compare.marks import marked
from loaderlab.compare.stats import Ratio, median
from loaderlab.config import EMULATED
from loaderlab.metrics import Metric
from loaderlab.tracking.records import Missing

ARM_METRICS = (  # a narrow terminal leaves out the last ones first
    metrics.UTILIZATION_PCT,
    metrics.WORKERS_NEEDED,
    metrics.CORES_NEEDED,
    metrics.ACCELERATORS_FED,
    metrics.WAIT_PCT,
    metrics.EFFICIENCY_PCT,
    metrics.STARVED_PCT,
    metrics.VAL_ACCURACY,
    metrics.HOST_PEAK_MIB,
    metrics.CPU_PCT,
    metrics.JOULES_PER_SAMPLE,
)


def arm_table(comparison: Comparison, group: Group) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a group: one row per arm, with medians over its runs. A ladder also lists rungs that are not applicable."""
    listed = in_order(comparison, group)
    metric, figures = metrics.metric(comparison.metric), _figures(comparison, group)
    with_published = shows_published(comparison) and any(name in PUBLISHED for name, _ in listed)
    with_marks = any(_marks(arm) for arm in group.arms)
    columns = [short(name) for name in comparison.columns] or ["arm"]
    columns += ["n", metric.column]
    columns += ["over previous rung", "over first rung"] if comparison.is_ladder else ["gain"]
    columns += ["published"] * (comparison.is_ladder and with_published)
    columns += ["note"] * with_marks
    columns += [*(entry.column for entry in figures), "verdict"]
    rows = []
    for name, arm in listed:
        row = [row_label(comparison, name), "–", "not applicable here", "–", "–"]
        row = row if arm is None else _leading(comparison, group, arm)
        row += [PUBLISHED.get(name, "–")] * ("published" in columns)
        row += ["" if arm is None else "\n".join(_marks(arm))] * with_marks
        row += ["–" if arm is None else _median(arm, entry) for entry in figures]
        row += ["–" if arm is None else arm.verdicts or "–"]
        rows.append(row)
    return columns, rows


def group_title(comparison: Comparison, group: Group) -> str:
    """How the group differs from the others; empty if there is no other. For emulated accelerators it says so."""
    work = group_name(comparison, group)
    if not comparison.is_emulated or EMULATED in work:
        return work
    return ", ".join(part for part in (comparison.mark, work) if part)


def _figures(comparison: Comparison, group: Group) -> list[Metric]:
    """The metrics that at least one arm measured, without the compared metric, which has its own column."""
    names = [name for name in ARM_METRICS if name != comparison.metric]
    return [metrics.metric(name) for name in names if any(arm.median(name) is not None for arm in group.arms)]


def _leading(comparison: Comparison, group: Group, arm: ComparedArm) -> list[str]:
    """The first cells of a row: the arm, the number of its runs, the metric and its gains."""
    named = comparison.is_ladder or not comparison.columns
    cells = [arm.label] if named else [arm.settings[name] or "–" for name in comparison.columns]
    cells += [str(len(arm.runs)), metrics.metric(comparison.metric).cell(median(arm.values))]
    cells += [gain_cell(arm.over_previous)] * comparison.is_ladder
    return [*cells, "baseline" if arm.partner is None and arm is group.baseline else gain_cell(arm.gain)]


def _marks(arm: ComparedArm) -> list[str]:
    """Short notes for the arm's row; the full notes are below the table."""
    noisy = arm.gain is not None and arm.gain.noisy
    return [
        *["learns differently"] * bool(arm.learning),
        *["too noisy"] * noisy,
        *["ceiling"] * arm.is_ceiling,
        *["see below"] * (len(arm.notes) > noisy),
    ]


def _median(arm: ComparedArm, metric: Metric) -> str:
    """The median, with the number of runs if not all runs of the arm measured it."""
    value, count = arm.median(metric.name), arm.num_measured(metric.name)
    if value is None:
        return "–"
    return metric.cell(value) + ("" if count == len(arm.runs) else f"\nin {count} of {len(arm.runs)}")


def gain_cell(gain: Ratio | None) -> str:
    """``1.31x (1.20–1.43)``; a second line says if no difference is shown, or if there are too few pairs for a claim."""
    if gain is None:
        return "–"
    if gain.low is None:
        return f"{gain.value:.2f}x\nn = {gain.num_pairs}: no claim"
    return f"{gain.value:.2f}x ({gain.low:.2f}–{gain.high:.2f})" + ("" if gain.shown else "\nno difference shown")


def in_order(comparison: Comparison, group: Group) -> list[tuple[str, ComparedArm | None]]:
    """(label, arm); for a ladder (rung, arm) in the order of its rungs, with None for a rung that is not applicable here."""
    if not comparison.is_ladder:
        return [(arm.label, arm) for arm in group.arms]
    listed: list[tuple[str, ComparedArm | None]] = [(arm.rung or arm.label, arm) for arm in group.arms]
    measured = {name for name, _ in listed}
    absent = dict.fromkeys(_rung(entry) for entry in comparison.missing if entry.not_applicable)
    listed += [(name, None) for name in absent if name not in measured]
    return sorted(listed, key=lambda entry: RUNGS.index(entry[0]) if entry[0] in RUNGS else len(RUNGS))


def row_label(comparison: Comparison, name: str) -> str:
    """The label of a ladder's row, given its rung."""
    return marked(name, emulated=comparison.is_emulated)


def _rung(entry: Missing) -> str:
    """The rung of a job that is not applicable here: its name without what all jobs of an emulated ladder have."""
    return next((word.removeprefix("rung=") for word in entry.name.split() if word.startswith("rung=")), entry.name)

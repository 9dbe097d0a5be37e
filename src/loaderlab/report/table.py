"""Figures as rows of text, with units, in the order in which they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loaderlab import metrics
from loaderlab.compare.arms import ComparedArm, Comparison, Group, short
from loaderlab.compare.ladder import PUBLISHED, RUNGS
from loaderlab.compare.stats import Ratio, median
from loaderlab.diagnosis.evidence import Verdict

ROWS: tuple[tuple[str, str, str], ...] = (  # metric, label, format
    (metrics.RATE, "throughput, steady state", "{:,.0f} samples/s"),
    (metrics.STEP_MS, "step, mean", "{:.2f} ms"),
    (metrics.STEP_P95_MS, "step, 95th percentile", "{:.2f} ms"),
    (metrics.STEP_MAX_MS, "step, longest", "{:.2f} ms"),
    (metrics.WAIT_MS, "  wait for the batch", "{:.2f} ms"),
    (metrics.TRANSFER_MS, "  transfer to the device", "{:.2f} ms"),
    (metrics.FORWARD_MS, "  forward", "{:.2f} ms"),
    (metrics.BACKWARD_MS, "  backward", "{:.2f} ms"),
    (metrics.OPTIMIZER_MS, "  optimizer", "{:.2f} ms"),
    (metrics.COMPUTE_MS, "  forward, backward, optimizer", "{:.2f} ms"),
    (metrics.OTHER_MS, "  other", "{:.2f} ms"),
    (metrics.WAIT_PCT, "host waiting for data", "{:.1f} % of the window"),
    (metrics.STARVED_PCT, "device dry for want of data", "{:.1f} % of the window"),
    (metrics.DELIVERY_PCT, "  of it, batch on its way", "{:.1f} % of the window"),
    (metrics.EPOCH_GAP_PCT, "lost between epochs", "{:.1f} % of the loop"),
    (metrics.CEILING_RATE, "ceiling: batches at hand", "{:,.0f} samples/s"),
    (metrics.CONTENDED_RATE, "ceiling, loader beside it", "{:,.0f} samples/s"),
    (metrics.LOADER_RATE, "loader alone", "{:,.0f} samples/s"),
    (metrics.EXPECTED_RATE, "to expect of both together", "{:,.0f} samples/s"),
    (metrics.HEADROOM_X, "headroom, ceiling / rate", "{:.2f}x"),
    (metrics.COLD_RATE, "with a cold file cache", "{:,.0f} samples/s"),
    (metrics.FETCH_STALL_PCT, "fetch stall, cold against warm", "{:.1f} %"),
    (metrics.PREP_STALL_PCT, "prep stall, warm against ceiling", "{:.1f} %"),
    (metrics.STARTUP_S, "process start to loop", "{:.2f} s"),
    (metrics.FIRST_BATCH_S, "first batch", "{:.2f} s"),
    (metrics.EPOCH_GAP_MS, "gap between epochs, mean", "{:.1f} ms"),
    (metrics.TRAIN_S, "training loop, all of it", "{:.2f} s"),
    (metrics.CPU_PCT, "processor, workers included", "{:.0f} % of the cores"),
    (metrics.LOADER_CORES, "cores that the loader alone keeps busy", "{:.2f}"),
    (metrics.READ_MIB_PER_S, "read from the disk", "{:,.1f} MiB/s"),
    (metrics.DEVICE_PCT, "GPU utilisation by NVML", "{:.0f} %"),
    (metrics.POWER_W, "GPU power", "{:.0f} W"),
    (metrics.JOULES_PER_SAMPLE, "GPU energy", "{:.4f} J a sample"),
    (metrics.THROTTLED_PCT, "GPU slowed down by heat or power", "{:.0f} % of the time"),
    (metrics.HOST_PEAK_MIB, "host memory, workers included", "{:,.0f} MiB"),
    (metrics.DEVICE_PEAK_MIB, "device memory", "{:,.0f} MiB"),
    (metrics.SKIPPED_SAMPLES, "samples that did not load, skipped", "{:,.0f}"),
    (metrics.OVERHEAD_PCT, "the meter's own cost", "{:.3f} % of a step"),
    (metrics.TRAIN_LOSS, "training loss, last", "{:.4f}"),
    (metrics.VAL_LOSS, "validation loss, last", "{:.4f}"),
    (metrics.VAL_ACCURACY, "validation accuracy, last", "{:.4f}"),
)
SIDE_BY_SIDE: tuple[tuple[str, str, str], ...] = (  # metric, column, format; the last ones go first in a narrow window
    (metrics.RATE, "samples/s", "{:,.0f}"),
    (metrics.STEP_MS, "step ms", "{:.2f}"),
    (metrics.WAIT_PCT, "wait %", "{:.1f}"),
    (metrics.STARVED_PCT, "dry %", "{:.1f}"),
    (metrics.HEADROOM_X, "headroom", "{:.2f}x"),
    (metrics.VAL_ACCURACY, "val acc", "{:.4f}"),
    (metrics.TRAIN_LOSS, "train loss", "{:.4f}"),
    (metrics.TRAIN_S, "train s", "{:.1f}"),
    (metrics.HOST_PEAK_MIB, "host MiB", "{:,.0f}"),
)


def figure_rows(figures: Mapping[str, float]) -> list[tuple[str, str]]:
    """(label, value with unit) of each figure that was measured; one that was not has no row."""
    return [(label, form.format(figures[name])) for name, label, form in ROWS if name in figures]


def side_by_side(figures: Mapping[str, float]) -> list[str]:
    """The cells of one job in the table of a sweep; a figure that was not measured is a dash."""
    return [form.format(figures[name]) if name in figures else "–" for name, _, form in SIDE_BY_SIDE]


def markdown(title: str, facts: Mapping[str, str], figures: Mapping[str, float], verdict: Verdict | None) -> str:
    """One run as a page: the verdict, what was run, the figures."""
    lines = [f"# {title}", ""]
    if verdict is not None:
        lines += [f"**{verdict.grade}**: {_escape(verdict.because)}.", ""]
        lines += [f"Bottleneck: {verdict.bottleneck}.", ""] if verdict.bottleneck else []
        lines += [f"- try {_escape(str(advice))}" for advice in verdict.advice]
        lines += [""] if verdict.advice else []
    lines += [f"- **{name}**: {_escape(value)}" for name, value in facts.items()]
    if rows := [(name, label.strip(), form.format(figures[name])) for name, label, form in ROWS if name in figures]:
        lines += ["", "| figure | value | metric |", "|---|---:|---|"]
        lines += [f"| {label} | {value} | `{name}` |" for name, label, value in rows]
    return "\n".join(lines) + "\n"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as a Markdown table, the first two columns to the left."""
    align = ["---", "---", *(["---:"] * (len(columns) - 2))]
    lines = [columns, align, *[[_escape(cell).replace("\n", ", ") for cell in row] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _escape(text: str) -> str:
    return text.replace("<", "&lt;").replace("|", "\\|")


# ---- arms side by side -----------------------------------------------------------------------------------------

ARM_FIGURES: tuple[tuple[str, str, str], ...] = (  # metric, column, format; the last ones go first in a narrow window
    (metrics.WAIT_PCT, "wait", "{:.1f} %"),
    (metrics.EFFICIENCY_PCT, "of ceiling", "{:.0f} %"),
    (metrics.STARVED_PCT, "starved", "{:.1f} %"),
    (metrics.VAL_ACCURACY, "val acc", "{:.4f}"),
    (metrics.HOST_PEAK_MIB, "host MiB", "{:,.0f}"),
    (metrics.CPU_PCT, "cores", "{:.0f} %"),
    (metrics.JOULES_PER_SAMPLE, "J/sample", "{:.3g}"),
)


def arm_table(comparison: Comparison, group: Group) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a group: an arm a row, medians over its runs; a ladder's rungs that are not here among them."""
    figures = [entry for entry in ARM_FIGURES if any(arm.median(entry[0]) is not None for arm in group.arms)]
    columns = [short(name) for name in comparison.columns] or ["arm"]
    columns += ["n", METRIC_COLUMN.get(comparison.metric, comparison.metric)]
    columns += ["over the one before", "over the first"] if comparison.is_ladder else ["gain"]
    known = any(label in PUBLISHED for label, _ in in_order(comparison, group))
    columns += ["published"] * (comparison.is_ladder and comparison.study == "ladder" and known)
    columns += ["note"] * any(_marks(arm) for arm in group.arms)
    columns += [*(column for _, column, _ in figures), "verdict"]
    rows = []
    for label, arm in in_order(comparison, group):
        published = PUBLISHED.get(label, "–")
        if arm is None:
            cells = dict.fromkeys(columns, "–") | {columns[0]: label, columns[2]: "not applicable here"}
            cells |= {name: text for name, text in (("note", ""), ("published", published)) if name in columns}
            rows.append(list(cells.values()))
            continue
        row = (
            [arm.label]
            if comparison.is_ladder or not comparison.columns
            else [arm.settings[name] or "–" for name in comparison.columns]
        )
        row += [str(len(arm.runs)), NUMBERS.get(comparison.metric, "{:g}").format(median(arm.values))]
        row += [gain_cell(arm.over_previous)] * comparison.is_ladder
        row += ["baseline" if arm.partner is None and arm is group.baseline else gain_cell(arm.gain)]
        row += [published] * ("published" in columns)
        row += ["\n".join(_marks(arm))] * ("note" in columns)
        row += [*(_figure(arm, metric, form) for metric, _, form in figures), arm.verdicts or "–"]
        rows.append(row)
    return columns, rows


def _marks(arm: ComparedArm) -> list[str]:
    """What its row says of it in a word; the rest of its notes stands below."""
    noisy = arm.gain is not None and arm.gain.noisy
    return [
        *["learns differently"] * bool(arm.learning),
        *["too noisy"] * noisy,
        *["ceiling"] * arm.is_ceiling,
        *["see below"] * (len(arm.notes) > noisy),
    ]


def _figure(arm: ComparedArm, metric: str, form: str) -> str:
    """The median, and of how many where not every run of the arm measured it."""
    value = arm.median(metric)
    if value is None:
        return "–"
    count = arm.num_measured(metric)
    return form.format(value) + ("" if count == len(arm.runs) else f"\nin {count} of {len(arm.runs)}")


METRIC_COLUMN = {
    metrics.RATE: "samples/s",
    metrics.TRAIN_S: "train s",
    metrics.STEP_MS: "step ms",
    metrics.JOULES_PER_SAMPLE: "J a sample",
}
NUMBERS = {
    metrics.RATE: "{:,.0f}",
    metrics.TRAIN_S: "{:,.2f}",
    metrics.STEP_MS: "{:,.2f}",
    metrics.JOULES_PER_SAMPLE: "{:.4g}",
}


def gain_cell(found: Ratio | None) -> str:
    """``1.31x (1.20–1.43)``, in a second line that no difference is shown; a ratio of fewer than three pairs claims nothing and says so."""
    if found is None:
        return "–"
    if found.low is None:
        return f"{found.value:.2f}x\nn = {found.num_pairs}: no claim"
    return f"{found.value:.2f}x ({found.low:.2f}–{found.high:.2f})" + ("" if found.shown else "\nno difference shown")


def in_order(comparison: Comparison, group: Group) -> list[tuple[str, ComparedArm | None]]:
    """(label, arm); for a ladder the rungs' own order, with None for one that is not applicable here."""
    found: list[tuple[str, ComparedArm | None]] = [(arm.label, arm) for arm in group.arms]
    if comparison.is_ladder:
        known = {label for label, _ in found}
        absent = {entry.name.removeprefix("rung=") for entry in comparison.missing if entry.not_applicable} - known
        found += [(name, None) for name in absent]
        found.sort(key=lambda entry: RUNGS.index(entry[0]) if entry[0] in RUNGS else len(RUNGS))
    return found

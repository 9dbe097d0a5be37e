"""Figures as rows of text, with units, in the order in which they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loaderlab.compare.arms import Arm, Comparison, Group, short
from loaderlab.compare.ladder import PUBLISHED, RUNGS
from loaderlab.compare.stats import Ratio, median
from loaderlab.diagnosis.evidence import Verdict

ROWS: tuple[tuple[str, str, str], ...] = (  # metric, label, format
    ("rate/samples_per_s", "throughput, steady state", "{:,.0f} samples/s"),
    ("time/step_ms", "step, mean", "{:.2f} ms"),
    ("time/step_p95_ms", "step, 95th percentile", "{:.2f} ms"),
    ("time/step_max_ms", "step, longest", "{:.2f} ms"),
    ("time/wait_ms", "  wait for the batch", "{:.2f} ms"),
    ("time/transfer_ms", "  transfer to the device", "{:.2f} ms"),
    ("time/forward_ms", "  forward", "{:.2f} ms"),
    ("time/backward_ms", "  backward", "{:.2f} ms"),
    ("time/optimizer_ms", "  optimizer", "{:.2f} ms"),
    ("time/compute_ms", "  forward, backward, optimizer", "{:.2f} ms"),
    ("time/other_ms", "  other", "{:.2f} ms"),
    ("starvation/wait_pct", "host waiting for data", "{:.1f} % of the window"),
    ("starvation/starved_pct", "device dry for want of data", "{:.1f} % of the window"),
    ("starvation/delivery_pct", "  of it, batch on its way", "{:.1f} % of the window"),
    ("starvation/epoch_gap_pct", "lost between epochs", "{:.1f} % of the loop"),
    ("rate/ceiling_samples_per_s", "ceiling: batches at hand", "{:,.0f} samples/s"),
    ("rate/contended_samples_per_s", "ceiling, loader beside it", "{:,.0f} samples/s"),
    ("rate/loader_samples_per_s", "loader alone", "{:,.0f} samples/s"),
    ("rate/expected_samples_per_s", "to expect of both together", "{:,.0f} samples/s"),
    ("starvation/headroom_x", "headroom, ceiling / rate", "{:.2f}x"),
    ("rate/cold_samples_per_s", "with a cold file cache", "{:,.0f} samples/s"),
    ("starvation/fetch_stall_pct", "fetch stall, cold against warm", "{:.1f} %"),
    ("starvation/prep_stall_pct", "prep stall, warm against ceiling", "{:.1f} %"),
    ("time/startup_s", "process start to loop", "{:.2f} s"),
    ("time/first_batch_s", "first batch", "{:.2f} s"),
    ("time/epoch_gap_ms", "gap between epochs, mean", "{:.1f} ms"),
    ("time/train_s", "training loop, all of it", "{:.2f} s"),
    ("cpu/utilization_pct", "processor, workers included", "{:.0f} % of the cores"),
    ("cpu/loader_cores", "cores that the loader alone keeps busy", "{:.2f}"),
    ("io/read_mib_per_s", "read from the disk", "{:,.1f} MiB/s"),
    ("device/utilization_pct", "GPU utilisation by NVML", "{:.0f} %"),
    ("device/power_w", "GPU power", "{:.0f} W"),
    ("energy/joules_per_sample", "GPU energy", "{:.4f} J a sample"),
    ("device/throttled_pct", "GPU slowed down by heat or power", "{:.0f} % of the time"),
    ("memory/host_peak_mib", "host memory, workers included", "{:,.0f} MiB"),
    ("memory/device_peak_mib", "device memory", "{:,.0f} MiB"),
    ("data/skipped_samples", "samples that did not load, skipped", "{:,.0f}"),
    ("meter/overhead_pct", "the meter's own cost", "{:.3f} % of a step"),
    ("train/loss", "training loss, last", "{:.4f}"),
    ("val/loss", "validation loss, last", "{:.4f}"),
    ("val/accuracy", "validation accuracy, last", "{:.4f}"),
)
SIDE_BY_SIDE: tuple[tuple[str, str, str], ...] = (  # metric, column, format; the last ones go first in a narrow window
    ("rate/samples_per_s", "samples/s", "{:,.0f}"),
    ("time/step_ms", "step ms", "{:.2f}"),
    ("starvation/wait_pct", "wait %", "{:.1f}"),
    ("starvation/starved_pct", "dry %", "{:.1f}"),
    ("starvation/headroom_x", "headroom", "{:.2f}x"),
    ("val/accuracy", "val acc", "{:.4f}"),
    ("train/loss", "train loss", "{:.4f}"),
    ("time/train_s", "train s", "{:.1f}"),
    ("memory/host_peak_mib", "host MiB", "{:,.0f}"),
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
    ("starvation/wait_pct", "wait", "{:.1f} %"),
    ("starvation/efficiency_pct", "of ceiling", "{:.0f} %"),
    ("starvation/starved_pct", "starved", "{:.1f} %"),
    ("val/accuracy", "val acc", "{:.4f}"),
    ("memory/host_peak_mib", "host MiB", "{:,.0f}"),
    ("cpu/utilization_pct", "cores", "{:.0f} %"),
    ("energy/joules_per_sample", "J/sample", "{:.3g}"),
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


def _marks(arm: Arm) -> list[str]:
    """What its row says of it in a word; the rest of its notes stands below."""
    noisy = arm.gain is not None and arm.gain.noisy
    return [
        *["learns differently"] * bool(arm.learning),
        *["too noisy"] * noisy,
        *["ceiling"] * arm.is_ceiling,
        *["see below"] * (len(arm.notes) > noisy),
    ]


def _figure(arm: Arm, metric: str, form: str) -> str:
    """The median, and of how many where not every run of the arm measured it."""
    value = arm.median(metric)
    if value is None:
        return "–"
    count = arm.num_measured(metric)
    return form.format(value) + ("" if count == len(arm.runs) else f"\nin {count} of {len(arm.runs)}")


METRIC_COLUMN = {
    "rate/samples_per_s": "samples/s",
    "time/train_s": "train s",
    "time/step_ms": "step ms",
    "energy/joules_per_sample": "J a sample",
}
NUMBERS = {
    "rate/samples_per_s": "{:,.0f}",
    "time/train_s": "{:,.2f}",
    "time/step_ms": "{:,.2f}",
    "energy/joules_per_sample": "{:.4g}",
}


def gain_cell(found: Ratio | None) -> str:
    """``1.31x (1.20–1.43)``, in a second line that no difference is shown; a ratio of fewer than three pairs claims nothing and says so."""
    if found is None:
        return "–"
    if found.low is None:
        return f"{found.value:.2f}x\nn = {found.num_pairs}: no claim"
    return f"{found.value:.2f}x ({found.low:.2f}–{found.high:.2f})" + ("" if found.shown else "\nno difference shown")


def in_order(comparison: Comparison, group: Group) -> list[tuple[str, Arm | None]]:
    """(label, arm); for a ladder the rungs' own order, with None for one that is not applicable here."""
    found: list[tuple[str, Arm | None]] = [(arm.label, arm) for arm in group.arms]
    if comparison.is_ladder:
        known = {label for label, _ in found}
        absent = {entry.name.removeprefix("rung=") for entry in comparison.missing if entry.not_applicable} - known
        found += [(name, None) for name in absent]
        found.sort(key=lambda entry: RUNGS.index(entry[0]) if entry[0] in RUNGS else len(RUNGS))
    return found

"""Figures as rows of text, with units, in the order in which they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    ("time/other_ms", "  other", "{:.2f} ms"),
    ("starvation/wait_pct", "host waiting for data", "{:.1f} % of the window"),
    ("starvation/starved_pct", "device dry for want of data", "{:.1f} % of the window"),
    ("time/startup_s", "process start to loop", "{:.2f} s"),
    ("time/first_batch_s", "first batch", "{:.2f} s"),
    ("time/epoch_gap_ms", "lost between epochs", "{:.1f} ms"),
    ("time/train_s", "training loop, all of it", "{:.2f} s"),
    ("cpu/utilization_pct", "processor, workers included", "{:.0f} % of the cores"),
    ("memory/host_peak_mib", "host memory, workers included", "{:,.0f} MiB"),
    ("memory/device_peak_mib", "device memory", "{:,.0f} MiB"),
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


def markdown(title: str, facts: Mapping[str, str], figures: Mapping[str, float]) -> str:
    """One run as a page: what it was, then its figures."""
    lines = [f"# {title}", ""]
    lines += [f"- **{name}**: {_escape(value)}" for name, value in facts.items()]
    if rows := [(name, label.strip(), form.format(figures[name])) for name, label, form in ROWS if name in figures]:
        lines += ["", "| figure | value | metric |", "|---|---:|---|"]
        lines += [f"| {label} | {value} | `{name}` |" for name, label, value in rows]
    return "\n".join(lines) + "\n"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as a Markdown table, the first two columns to the left."""
    align = ["---", "---", *(["---:"] * (len(columns) - 2))]
    lines = [columns, align, *[[_escape(cell) for cell in row] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _escape(text: str) -> str:
    return text.replace("<", "&lt;").replace("|", "\\|")

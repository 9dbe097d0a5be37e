"""One run as rows of text and as a Markdown page. It imports no comparison, since `watch` writes it too."""

from __future__ import annotations

from collections.abc import Mapping

from loaderlab import metrics
from loaderlab.diagnosis.verdict import Verdict
from loaderlab.report.markdown import escape

ROWS = tuple(entry for entry in metrics.TABLE.values() if entry.row)


def figure_rows(figures: Mapping[str, float]) -> list[tuple[str, str]]:
    """(label, value with unit) of each measured metric. A part of the row above it is indented by two spaces."""
    return [("  " * (entry.row == metrics.PART) + entry.label, _text(entry, figures)) for entry in _shown(figures)]


def _shown(figures: Mapping[str, float]) -> list[metrics.Metric]:
    """The metrics that have a row: those of the table, then the user's own."""
    own = [metrics.metric(name) for name in figures if name not in metrics.TABLE]
    return [entry for entry in ROWS if entry.name in figures] + own


def _text(entry: metrics.Metric, figures: Mapping[str, float]) -> str:
    """The value with its unit; in a job of several ranks, with that of the worst rank."""
    text, worst = entry.text(figures[entry.name]), metrics.worst_of(entry.name)
    if (
        entry.name == metrics.STARVED_PCT
    ):  # the job can lose more than any of its ranks: in each step it waits for another one
        worst = None
    return text if worst is None or worst not in figures else f"{text} (worst rank {entry.cell(figures[worst])})"


def markdown(
    title: str, facts: Mapping[str, str], figures: Mapping[str, float], verdict: Verdict | None, sections: str = ""
) -> str:
    """One run as a page: the verdict, the facts of the run, the metrics, and the sections on its ranks and on its loader's lines."""
    lines = [f"# {title}", ""]
    if verdict is not None:
        lines += [f"**{verdict.grade}**{escape(verdict.sentence.removeprefix(verdict.grade))}.", ""]
        lines += [f"Bottleneck: {verdict.bottleneck}.", ""] if verdict.bottleneck else []
        lines += [f"Slow line: {escape(verdict.slow_line)}.", ""] if verdict.slow_line else []
        lines += [f"- try {escape(text)}" for text in verdict.to_try]
        lines += [""] if verdict.advice else []
        lines += [f"**Capacity**: {escape(verdict.capacity)}.", ""] if verdict.capacity else []
    lines += [f"- **{name}**: {escape(value)}" for name, value in facts.items()]
    if shown := _shown(figures):
        lines += ["", "| what | value | metric |", "|---|---:|---|"]
        lines += [f"| {entry.label} | {_text(entry, figures)} | `{entry.name}` |" for entry in shown]
    return "\n".join(lines) + "\n" + sections

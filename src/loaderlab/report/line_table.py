"""The stages and lines of a loader as tables, for the terminal and for the page of the run."""

from __future__ import annotations

from typing import Any

from loaderlab import metrics
from loaderlab.lines import words
from loaderlab.lines.shares import Part, SlowLines
from loaderlab.lines.stages import WAITING
from loaderlab.report.markdown import markdown_table

MOST_LINES = 12
HEADING = "\n## Slow lines\n\n"
PERCENT, FACTOR = metrics.metric(metrics.LINES_SHARE_PCT), metrics.metric(metrics.LINES_RUN_X)
STAGE_COLUMNS = ("stage", "spends its time", "of busy time", "exposed", "own CPU", "other threads", "run without it")
LINE_COLUMNS = ("line", "stage", *STAGE_COLUMNS[1:])


def line_table(lines: SlowLines) -> tuple[list[str], list[list[str]]]:
    """The names of the columns, and a row for each of the slowest lines."""
    rows = [[part.line.place, part.title, *_values(lines, part)] for part in lines.lines[:MOST_LINES]]
    return list(LINE_COLUMNS), rows


def stage_table(lines: SlowLines) -> tuple[list[str], list[list[str]]]:
    """The names of the columns, and a row for each stage. Waiting for the trainer is no part of the busy time."""
    return list(STAGE_COLUMNS), [[part.title, *_values(lines, part)] for part in lines.stages]


def _values(lines: SlowLines, part: Part) -> list[str]:
    cpu = [PERCENT.cell(value) for value in (part.cpu_pct, part.others_pct)]
    if part.stage.kind == WAITING:
        return ["waiting", f"({PERCENT.cell(part.wall_pct)} of the profile)", "", *cpu, ""]
    exposed = "free" if part.is_free else PERCENT.cell(part.exposed_pct)
    return [part.spends, PERCENT.cell(part.wall_pct), exposed, *cpu, FACTOR.cell(lines.gain(part).run_x)]


def mlflow_table(lines: SlowLines) -> dict[str, Any]:
    """The lines in the form of MLflow's tables: ``columns`` and ``data``, a list of rows."""
    columns, rows = line_table(lines)
    return {
        "columns": [*columns, "source"],
        "data": [[*row, part.line.text] for row, part in zip(rows, lines.lines, strict=False)],
    }


def lines_section(lines: SlowLines) -> str:
    """The part of a run's Markdown page about the lines of its loader."""
    basis = (
        f"Profiled: {words.facts(lines)}; {lines.num_samples:,} samples. The profiled steps are not part of the metrics. Exposed: the share within "
        "the waits of the training for data. Own CPU: the share of this time in which the main thread computed or waited for a core. Other "
        "threads: what they computed meanwhile, of one core."
    )
    stages, slowest = markdown_table(*stage_table(lines)), markdown_table(*line_table(lines))
    return f"{HEADING}{stages}\n{slowest}\n{basis}\n"


def short_section(lines: SlowLines) -> str:
    """The same in a few lines, for the description of a run in MLflow, which has at most 5,000 characters."""
    return (
        f"{HEADING}{markdown_table(words.COLUMNS, words.rows(lines, lines.lines))}\nStages and CPU times: report.md\n"
    )

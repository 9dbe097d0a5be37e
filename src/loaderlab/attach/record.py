"""Writes what was measured of a loop into its MLflow run: metrics, verdict and files."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loaderlab import metrics
from loaderlab.diagnosis.figures import LoopRecord
from loaderlab.diagnosis.verdict import Verdict
from loaderlab.system.files import write_text

if TYPE_CHECKING:
    from loaderlab.attach.rank_results import RanksReading
    from loaderlab.lines.control import Profiled
    from loaderlab.tracking.tracked_run import TrackedRun


@dataclass(frozen=True)
class Record:
    """The results of a loop that is not ours.

    Attributes:
        name: of the run.
        facts: lines of the page: name and text.
        environment: the content of ``environment.json``.
        ranks: the verdict over the ranks of the job; None without other ranks.
        slow: the slow lines of a loader; None if no worker was profiled.
    """

    name: str
    facts: Mapping[str, str]
    verdict: Verdict
    figures: Mapping[str, float]
    loop: LoopRecord
    environment: Mapping[str, Any]
    ranks: RanksReading | None = None
    slow: Profiled | None = None


def log_results(tracked: TrackedRun, verdict: Verdict, figures: Mapping[str, float], num_steps: int) -> None:
    """Records the verdict and the metrics of the first ``num_steps`` steps."""
    for metric, value in figures.items():
        tracked.metric(metric, value, num_steps)
    tracked.tags(verdict.tags())


def write_record(tracked: TrackedRun, record: Record) -> None:
    """Records everything; a loop without a step has no ``steps.csv`` and no picture."""
    from loaderlab.report import run_page
    from loaderlab.report.line_files import write_lines
    from loaderlab.report.line_table import lines_section, short_section
    from loaderlab.report.step_files import write_steps

    loop = record.loop
    log_results(tracked, record.verdict, record.figures, len(loop.steps))
    for step in loop.steps:
        tracked.metric(metrics.TRAIN_LOSS, step.loss, step.step)  # a loss that is not finite is left out
    facts, slow = dict(record.facts), record.slow
    if slow is not None and not record.verdict.slow_line:  # the profile has a problem, or is of one of several loaders
        facts["slow line"] = slow.sentence
    page = run_page.markdown(record.name, facts, record.figures, record.verdict) + _ranks_section(record.ranks)
    whole = page
    if slow is not None and slow.lines is not None:
        whole, page = page + lines_section(slow.lines), page + short_section(slow.lines)
    tracked.tags({"mlflow.note.content": page})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if loop.steps:
            write_steps(folder, f"{record.name}: {record.verdict.grade}", loop, record.figures)
        if record.ranks is not None:
            tracked.tags(record.ranks.verdict.tags())
            _draw_ranks(folder, record.name, record.ranks)
            _write_ranks(folder, loop, record.ranks)
        if slow is not None:
            tracked.tags({"slow_line": slow.sentence} | write_lines(folder, slow, record.name))
        write_text(folder / "report.md", whole)
        write_text(folder / "environment.json", json.dumps(record.environment, indent=1) + "\n")
        tracked.artifacts(folder)


def _ranks_section(ranks: RanksReading | None) -> str:
    """The part of the page about the ranks; empty if they were not compared."""
    from loaderlab.report.rank_table import ranks_section

    return "" if ranks is None or ranks.verdict.lost_pct is None else ranks_section(ranks.verdict, ranks.measured)


def _draw_ranks(folder: Path, name: str, ranks: RanksReading) -> None:
    from loaderlab.report.rank_charts import bars_by_rank, waits_by_rank  # the import takes half a second

    if ranks.verdict.lost_pct is None:
        return
    title = f"{name}: {ranks.verdict.sentence}"
    waits_by_rank(folder / "waits_by_rank.png", title, ranks.measured)
    if not ranks.unseparated:
        bars_by_rank(folder / "ranks.png", title, ranks.measured, ranks.verdict.straggler)


def _write_ranks(folder: Path, loop: LoopRecord, ranks: RanksReading) -> None:
    """The steps of every rank, in place of those of the job, and the facts of each node."""
    from loaderlab.diagnosis.rank_rows import node_facts
    from loaderlab.report.step_files import write_ranks_csv

    results = [result for result in ranks.results if len(result.rows)]
    if not results:
        return
    steps = ((result.rank, result.steps) for result in results)
    write_ranks_csv(folder / "steps.csv", steps, loop.warmup_steps, loop.parallel, coarse=True)
    write_text(folder / "nodes.json", json.dumps(node_facts(results), indent=1) + "\n")

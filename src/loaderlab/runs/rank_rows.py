"""The results of ranks that could not send them: from the files of steps that they wrote while they trained."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loaderlab import metrics
from loaderlab.diagnosis.rank_figures import job_figures, without_sums
from loaderlab.diagnosis.rank_rows import job_steps_of_rows
from loaderlab.diagnosis.ranks import judge_ranks
from loaderlab.meter.step_rows import read_rows, steps_of
from loaderlab.meter.summary import measured, summarize
from loaderlab.report.naming import named
from loaderlab.report.step_files import write_ranks_csv
from loaderlab.runs.rank_process import RankInfo
from loaderlab.runs.rank_results import RankReport
from loaderlab.system.ranks import Ranks


@dataclass(frozen=True)
class KnownResults:
    """What the files of some ranks say about a job: metrics, tags, and texts by file name."""

    figures: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)


def reports_of_files(infos: Sequence[RankInfo]) -> list[RankReport]:
    """The reports of the ranks of this node that have written steps, in their order; their metrics are those of their steps."""
    reports = []
    for info in infos:
        if not info.rows or not Path(info.rows).exists():
            continue
        ranks = Ranks(info.rank, info.world_size, node=info.node)
        rows = read_rows(Path(info.rows))
        figures = summarize(measured(steps_of(rows), info.warmup_steps, info.parallel))
        reports.append(RankReport(ranks, rows, info.warmup_steps, info.parallel, figures))
    return reports


def known_results(infos: Sequence[RankInfo]) -> KnownResults:
    """The results of the ranks of this node, without a verdict, since nothing is known about their loaders."""
    reports = reports_of_files(infos)
    if not reports:
        return KnownResults()
    first, world_size = reports[0], infos[0].world_size
    steps = job_steps_of_rows(report.rows for report in reports)
    job = summarize(measured(steps, first.warmup_steps, first.parallel)) | {metrics.NUM_RANKS: float(world_size)}
    figures = job_figures([report.figures for report in reports], job)
    if len(reports) < world_size:
        figures = without_sums(figures)
    verdict = judge_ranks([report.window for report in reports], world_size)
    return KnownResults(figures, verdict.tags(), _steps_csv("steps.csv", reports, emulated=infos[0].emulated))


def steps_of_node(infos: Sequence[RankInfo]) -> dict[str, str]:
    """The steps of a node without rank 0 as a text by its file name, which no other node of the job has; empty without steps."""
    reports = reports_of_files(infos)
    if not any(len(report.rows) for report in reports):
        return {}
    ranks = reports[0].ranks
    return _steps_csv(f"steps_{ranks.node}_from_rank_{ranks.rank}.csv", reports, emulated=infos[0].emulated)


def _steps_csv(name: str, reports: Sequence[RankReport], *, emulated: bool) -> dict[str, str]:
    """The steps of these ranks as a text by its file name."""
    name, first = named(name, emulated=emulated), reports[0]
    with tempfile.TemporaryDirectory(prefix="loaderlab-") as folder:
        path = Path(folder) / name
        ranks = ((report.ranks.rank, report.steps) for report in reports)
        write_ranks_csv(path, ranks, first.warmup_steps, first.parallel, emulated=emulated)
        return {name: path.read_text(encoding="utf-8")}

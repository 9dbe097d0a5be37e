"""The steps of ranks that could not send them: read from the files that they wrote while they trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from loaderlab import metrics
from loaderlab.meter.step_rows import read_rows, steps_of
from loaderlab.meter.summary import measured, summarize
from loaderlab.runs.rank_process import RankInfo
from loaderlab.runs.rank_results import RankReport
from loaderlab.system.ranks import Ranks

RANK_OWN = ("rate/",)  # of one rank alone these would read like those of the job


def reports_of_files(infos: Sequence[RankInfo], warmup_steps: int, parallel: int) -> list[RankReport]:
    """The reports of the ranks of this node that have written steps, in their order; their metrics are those of their steps."""
    reports = []
    for info in infos:
        if not info.rows or not Path(info.rows).exists():
            continue
        rows = read_rows(Path(info.rows))
        figures = summarize(measured(steps_of(rows), warmup_steps, parallel))
        figures.pop(metrics.RATE, None)
        reports.append(RankReport(Ranks(info.rank, info.world_size, node=info.node), rows, warmup_steps, parallel, figures))
    return reports

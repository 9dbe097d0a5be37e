"""The steps of ranks that could not send them: read from the files that they wrote while they trained."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from loaderlab import metrics
from loaderlab.meter.step_rows import read_rows, steps_of
from loaderlab.meter.summary import measured, summarize
from loaderlab.report.step_files import write_ranks_csv
from loaderlab.runs.rank_process import RankInfo
from loaderlab.runs.rank_results import RankReport
from loaderlab.system.ranks import Ranks


def reports_of_files(infos: Sequence[RankInfo], warmup_steps: int, parallel: int) -> list[RankReport]:
    """The reports of the ranks of this node that have written steps, in their order; their metrics are those of their steps."""
    reports = []
    for info in infos:
        if not info.rows or not Path(info.rows).exists():
            continue
        rows = read_rows(Path(info.rows))
        figures = summarize(measured(steps_of(rows), warmup_steps, parallel))
        figures.pop(metrics.RATE, None)  # of one rank alone it would look like that of the job
        reports.append(
            RankReport(Ranks(info.rank, info.world_size, node=info.node), rows, warmup_steps, parallel, figures)
        )
    return reports


def steps_text(infos: Sequence[RankInfo]) -> dict[str, str]:
    """The steps that the ranks of this node have written, as the text of a file, by its name; empty without steps."""
    written = [info for info in infos if info.rows and Path(info.rows).exists()]
    if not written:
        return {}
    steps = ((info.rank, steps_of(read_rows(Path(info.rows)))) for info in written)
    with tempfile.TemporaryDirectory(prefix="loaderlab-") as folder:
        path = Path(folder) / "steps.csv"
        write_ranks_csv(path, steps, 0)
        return {path.name: path.read_text(encoding="utf-8")}

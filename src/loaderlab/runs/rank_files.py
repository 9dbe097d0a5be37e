"""The files of a job of several ranks: the steps of each rank, the pictures by rank, and the facts of each node."""

from __future__ import annotations

import json
from pathlib import Path

from loaderlab.diagnosis.rank_rows import node_facts
from loaderlab.report.naming import named
from loaderlab.report.step_files import write_ranks_csv
from loaderlab.runs.rank_results import JobResults
from loaderlab.system.files import write_text


def write_job(folder: Path, title: str, job: JobResults, *, emulated: bool) -> None:
    """Writes the files of a job into a folder. ``title``: of the pictures."""
    from loaderlab.report.rank_charts import bars_by_rank, waits_by_rank  # their imports take half a second
    from loaderlab.report.step_picture import breakdown

    steps = ((report.ranks.rank, report.steps) for report in job.reports)
    path = folder / named("steps.csv", emulated=emulated)
    write_ranks_csv(path, steps, job.loop.warmup_steps, job.loop.parallel, emulated=emulated)
    breakdown(folder / named("breakdown.png", emulated=emulated), title, job.figures, job.loop.steps, emulated=emulated)
    if any(len(window.step) for window in job.windows):
        path = folder / named("ranks.png", emulated=emulated)
        bars_by_rank(path, title, job.windows, job.ranks.straggler, emulated=emulated)
        waits_by_rank(folder / named("waits_by_rank.png", emulated=emulated), title, job.windows, emulated=emulated)
    write_text(folder / "nodes.json", json.dumps(node_facts(job.reports), indent=1) + "\n")

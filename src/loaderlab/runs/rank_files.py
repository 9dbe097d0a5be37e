"""The files of a job of several ranks: the steps of each rank, the pictures by rank, and the facts of each node."""

from __future__ import annotations

import json
from pathlib import Path

from loaderlab.report.naming import named
from loaderlab.report.step_files import write_ranks_csv
from loaderlab.runs.rank_results import JobResults, node_facts
from loaderlab.system.files import write_text


def write_job(folder: Path, title: str, job: JobResults, *, emulated: bool) -> None:
    """Writes the files of a job into a folder. ``title``: of the pictures."""
    from loaderlab.report.step_picture import breakdown  # the import takes half a second

    steps = ((report.ranks.rank, report.steps) for report in job.reports)
    path = folder / named("steps.csv", emulated=emulated)
    write_ranks_csv(path, steps, job.loop.warmup_steps, job.loop.parallel, emulated=emulated)
    breakdown(folder / named("breakdown.png", emulated=emulated), title, job.figures, job.loop.steps, emulated=emulated)
    write_text(folder / "nodes.json", json.dumps(node_facts(job.reports), indent=1) + "\n")

"""What every MLflow run with an answer of the tuner has: its metrics and its files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from loaderlab.report.naming import named
from loaderlab.system.files import write_text
from loaderlab.tuning.answer import Answer
from loaderlab.tuning.answer_figures import figures_of
from loaderlab.tuning.answer_json import as_json

if TYPE_CHECKING:
    from loaderlab.tracking.tracked_run import TrackedRun

FILE, PAGE, CHART = "tune.json", "tune.html", "tune.png"


def record_answer(tracked: TrackedRun, answer: Answer, html: str, chart: bytes) -> None:
    """Writes the metrics and the files of an answer into a run.

    Args:
        html: its page.
        chart: its picture as a PNG file; empty if there is none.

    Raises:
        OSError: a file cannot be written.
    """
    for name, value in figures_of(answer).items():
        tracked.metric(name, value, 0)
    with tempfile.TemporaryDirectory(prefix="loaderlab-") as folder:
        file, page, picture = (
            Path(folder) / named(name, emulated=bool(answer.facts.emulated)) for name in (FILE, PAGE, CHART)
        )
        write_text(file, as_json(answer))
        write_text(page, html)
        if chart:
            picture.write_bytes(chart)
        tracked.artifacts(Path(folder))

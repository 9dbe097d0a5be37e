"""The raw steps of a loop as files: ``steps.csv`` and ``breakdown.png``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from loaderlab.diagnosis.figures import LoopRecord
from loaderlab.meter import summary
from loaderlab.system.files import write_text


def write_steps(folder: Path, title: str, loop: LoopRecord, figures: Mapping[str, float]) -> None:
    """Writes both. ``title``: of the picture."""
    from loaderlab.report.step_picture import breakdown  # half a second: not at the start

    text = summary.to_csv(loop.steps, loop.warmup_steps, loop.parallel, coarse=not loop.phases_marked)
    write_text(folder / "steps.csv", text)
    breakdown(folder / "breakdown.png", title, figures, loop.steps)

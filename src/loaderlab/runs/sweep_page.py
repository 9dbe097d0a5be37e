"""The page of a sweep's parent run in MLflow: its comparisons as text and as files."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from loaderlab.compare.arms import Comparison
from loaderlab.compare.kinds import has_kind_in_title
from loaderlab.config import EMULATED
from loaderlab.report import comparison_files, page, sentences
from loaderlab.report.comparison_files import PICTURE, picture_text
from loaderlab.report.naming import named
from loaderlab.tracking import ui_view
from loaderlab.tracking.store import Store
from loaderlab.tracking.tracked_run import TrackedRun

FOLDER = "comparison"  # of the parent run's artifacts


def attach_to_sweep(
    comparisons: Sequence[Comparison], store: Store, parent: TrackedRun, *, pictures: bool = True
) -> None:
    """Saves the comparisons with the sweep's parent run and shows them on the run's page; without ``pictures``, only text."""
    if pictures:
        with tempfile.TemporaryDirectory(prefix="loaderlab-") as folder:
            for comparison in comparisons:
                comparison_files.save(comparison, store, Path(folder))
            parent.artifacts(Path(folder), FOLDER)
    view = f"[These runs side by side]({ui_view.charts_link(store.experiment_id)}), grouped by arm, with their charts."
    notes = []
    for comparison in comparisons:
        picture = f"{FOLDER}/{named(PICTURE, emulated=comparison.is_emulated)}"
        links = [f"![{picture_text(comparison)}](get-artifact?path={picture}&run_uuid={parent.run_id})"]
        links = [*links * (pictures and bool(comparison.groups)), view]
        text = page.titled_markdown if has_kind_in_title(comparison) else page.markdown
        notes.append(text(comparison, links))
        tag = f"headline.{EMULATED}" if comparison.is_emulated else "headline"
        parent.tags({tag: " ".join(sentences.headline(comparison))})
    parent.tags({"mlflow.note.content": "\n".join(notes)})

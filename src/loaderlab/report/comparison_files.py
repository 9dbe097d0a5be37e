"""Writes the files of a comparison to a folder: the page, the tables, the pictures."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from loaderlab.compare.arms import Comparison
from loaderlab.report import page
from loaderlab.report.naming import named
from loaderlab.system.files import write_text

if TYPE_CHECKING:
    from loaderlab.tracking.store import Store

PICTURE, PAGE = "comparison.png", "report.html"


def save(comparison: Comparison, store: Store, folder: Path) -> None:
    """Writes report.html, comparison.csv, .json, .md, runs.csv and a PNG of each picture, with ``emulated`` in the names if the
    runs are emulated."""
    from loaderlab.report import charts, step_charts  # these imports take a second

    emulated = comparison.is_emulated

    @functools.cache
    def steps(run_id: str) -> step_charts.Series | None:
        text = store.read(run_id, named("steps.csv", emulated=emulated))
        return None if text is None else step_charts.read_steps(text)

    def write(name: str, text: str) -> None:
        write_text(folder / named(name, emulated=emulated), text)

    picture = named(PICTURE, emulated=emulated)
    drawn = charts.draw(comparison, steps, folder, picture)
    links = [f"![{picture_text(comparison)}]({picture})"] if drawn else []
    write(PAGE, page.html(comparison, drawn))
    write("comparison.md", page.titled_markdown(comparison, links))
    write("comparison.csv", page.as_csv(comparison))
    write("runs.csv", page.runs_as_csv(comparison))
    write("comparison.json", page.as_json(comparison))


def picture_text(comparison: Comparison) -> str:
    """The text in place of a picture that cannot be shown."""
    return f"the comparison, {comparison.mark}" if comparison.is_emulated else "the comparison"


def written(comparison: Comparison, folder: Path) -> str:
    """The line on the written files."""
    page_name, table, runs = (
        named(name, emulated=comparison.is_emulated) for name in (PAGE, "comparison.csv", "runs.csv")
    )
    return f"written: {folder / page_name}, {table}, .json, .md, {runs} and the pictures"

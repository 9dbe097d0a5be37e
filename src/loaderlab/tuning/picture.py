"""The picture of an answer as the content of a PNG file, for its run in MLflow."""

from __future__ import annotations

import tempfile
from pathlib import Path

from loaderlab.tuning import chart_places
from loaderlab.tuning.answer import Answer


def png_of(answer: Answer) -> bytes:
    """The picture; empty if there is nothing to draw."""
    if not chart_places.is_drawn(answer):
        return b""
    from loaderlab.tuning import chart  # it imports matplotlib

    with tempfile.TemporaryDirectory(prefix="loaderlab-") as folder:
        file = Path(folder) / "chart.png"
        chart.draw(answer, file)
        return file.read_bytes()

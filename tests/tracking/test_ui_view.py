"""The saved views of MLflow's run list."""

from __future__ import annotations

import base64
import json
import zlib

from loaderlab import metrics
from loaderlab.tracking import ui_view

TAG_LENGTH = 5000  # MLflow's limit


def test_the_list_of_runs_shows_verdict_rate_starved_share_and_headroom() -> None:
    view = json.loads(ui_view.tags()["mlflow.sharedViewState.runs"])
    state = json.loads(zlib.decompress(base64.b64decode(view["state"].removeprefix("deflate;"))))
    for name in (metrics.RATE, metrics.STARVED_PCT, metrics.HEADROOM_X):
        assert f"metrics.`{name}`" in state["selectedColumns"]
    assert "tags.`verdict`" in state["selectedColumns"]
    assert state["groupBy"] is None


def test_each_view_fits_into_a_tag() -> None:
    assert max(len(view) for view in ui_view.tags().values()) < TAG_LENGTH

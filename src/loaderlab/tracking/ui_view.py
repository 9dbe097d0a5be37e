"""Two saved views of MLflow's run list: charts of runs grouped by arm, and a list with verdicts and main metrics.

MLflow stores a shared view as a tag of the experiment. The names in this file are those of its front end 3.17. Another version
that reads them differently shows the plain list.
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

from loaderlab import metrics

CHARTS, TABLE = "loaderlab", "runs"  # keys of the two views: charts that compare arms, and the list of runs
BARS = (
    metrics.RATE,
    metrics.STARVED_PCT,
    metrics.CEILING_RATE,
    metrics.WAIT_PCT,
    metrics.STEP_MS,
    metrics.TRAIN_S,
    metrics.HOST_PEAK_MIB,
    metrics.CPU_PCT,
    metrics.VAL_ACCURACY,
)
LINES = (metrics.TRAIN_LOSS, metrics.VAL_LOSS)
COLUMNS = {  # columns of the list of runs, with their widths in pixels
    "attributes.`Created`": 110,
    "tags.`verdict`": 110,
    f"metrics.`{metrics.RATE}`": 135,
    f"metrics.`{metrics.STARVED_PCT}`": 155,
    f"metrics.`{metrics.HEADROOM_X}`": 155,
    "tags.`bottleneck`": 160,
    "tags.`advice`": 320,
    "tags.`slow_line`": 320,
}
SECTION = "loaderlab"


def charts_link(experiment_id: str) -> str:
    """The part of the URL after the server's address that opens the charts of runs grouped by arm."""
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={CHARTS}&compareRunsMode=CHART"


def addresses(server: str, experiment_id: str) -> tuple[str, str]:
    """Two lines: the URL of the list of runs with verdicts and main metrics, and the URL of their charts."""
    runs = f"{server}/#/experiments/{experiment_id}/runs?viewStateShareKey={TABLE}&compareRunsMode=TABLE"
    return f"list of runs: {runs}", f"side by side: {server}/{charts_link(experiment_id)}"


def tags() -> dict[str, str]:
    """The experiment's tags that store both views. Each view has a name, so MLflow lists it in the menu "Views"."""
    grouped = {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": "arm"}]}
    views = {CHARTS: _saved("Side by side", _state(grouped)), TABLE: _saved("Runs and verdicts", _state(None))}
    return {f"mlflow.sharedViewState.{key}": view for key, view in views.items()}


def _saved(name: str, state: str) -> str:
    """A saved view in the format of MLflow's front end: compressed, because a tag has at most 5,000 characters."""
    packed = base64.b64encode(zlib.compress(state.encode())).decode()
    return json.dumps({"name": name, "createdAt": 0, "updatedAt": 0, "state": f"deflate;{packed}"})


def _state(group_by: dict[str, Any] | None) -> str:
    line = {
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "selectedYAxisMetricKey": "",
        "xAxisScaleType": "linear",
        "yAxisScaleType": "linear",
        "scaleType": "linear",
        "lineSmoothness": 0,
        "range": {},
        "xRange": {},
    }
    charts = [_chart("BAR", metric) for metric in BARS]
    charts += [_chart("LINE", metric) | {"selectedMetricKeys": [metric]} | line for metric in LINES]
    section = {
        "uuid": SECTION,
        "name": "side by side",
        "display": True,
        "isReordered": True,
        "deleted": False,
        "isGenerated": False,
    }
    return json.dumps(
        {
            "searchFilter": "",
            "orderByKey": "attributes.start_time",
            "orderByAsc": group_by is not None,  # the list shows the latest run first
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "datasetsFilter": [],
            "modelVersionFilter": "All Runs",
            "selectedColumns": list(COLUMNS),
            "columnOrder": list(COLUMNS),
            "columnWidths": COLUMNS,
            "runsPinned": [],
            "runsExpanded": {},
            "runsHidden": [],
            "runsHiddenMode": "FIRST_20_RUNS",
            "runListHidden": False,
            "viewMaximized": False,
            "compareRunCharts": charts,
            "compareRunSections": [section],
            "isAccordionReordered": True,  # keeps our section first
            "groupBy": group_by,
            "useGroupedValuesInCharts": True,
            "hideEmptyCharts": True,
            "globalLineChartConfig": {},
            "chartsSearchFilter": "",
            "autoRefreshEnabled": False,
        }
    )


def _chart(kind: str, metric: str) -> dict[str, Any]:
    return {
        "type": kind,
        "metricKey": metric,
        "uuid": f"{SECTION}-{metric}",
        "runsCountToCompare": 20,
        "metricSectionId": SECTION,
        "deleted": False,
        "isGenerated": False,
    }

"""The MLflow UI's run list as it should open: runs grouped by arm, with the charts that answer the questions.

MLflow keeps a view that somebody shares as a tag of the experiment. The names in here are those of its front end (3.17);
where another version reads them otherwise, the plain list is what one gets.
"""

from __future__ import annotations

import json
from typing import Any

from loaderlab import metrics

KEY = "loaderlab"
TAG = f"mlflow.sharedViewState.{KEY}"
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
SECTION = "loaderlab"


def link(experiment_id: str) -> str:
    """The part of an address behind the server's."""
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={KEY}&compareRunsMode=CHART"


def state() -> str:
    """The tag's value."""
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
            "orderByAsc": True,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "datasetsFilter": [],
            "modelVersionFilter": "All Runs",
            "selectedColumns": ["attributes.`Created`", "tags.`verdict`"],
            "runsPinned": [],
            "runsExpanded": {},
            "runsHidden": [],
            "runsHiddenMode": "FIRST_20_RUNS",
            "runListHidden": False,
            "viewMaximized": False,
            "compareRunCharts": charts,
            "compareRunSections": [section],
            "isAccordionReordered": True,  # keeps our section first
            "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": "arm"}]},
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

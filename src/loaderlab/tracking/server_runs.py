"""Reads recorded runs and artifacts from a tracking server, faster than MLflow's own client.

For 1,000 runs, that client takes 4 s to turn the answer into its classes; for an artifact, it sends five requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from mlflow.utils import rest_utils
from mlflow.utils.credentials import get_default_host_creds

from loaderlab.tracking.records import RunRecord, record_of

SEARCH = "/api/2.0/mlflow/runs/search"
ARTIFACT = "/get-artifact"  # of the server's own pages: it reads the artifact wherever the server keeps it


def search_page(
    uri: str, experiment_id: str, query: str, num_runs: int, token: str | None
) -> tuple[list[RunRecord], str | None]:
    """A page of the runs that match an MLflow filter, ordered by start time, and the token of the next page.

    Raises:
        MlflowException: as MLflow's own client.
    """
    request = {
        "experiment_ids": [experiment_id],
        "filter": query,
        "run_view_type": "ACTIVE_ONLY",
        "max_results": num_runs,
        "order_by": ["attributes.start_time ASC"],
        **({"page_token": token} if token else {}),
    }
    answer = rest_utils.verify_rest_response(_request(uri, SEARCH, "POST", json=request), SEARCH).json()
    return [_record(run) for run in answer.get("runs", [])], answer.get("next_page_token") or None


def read_artifact(uri: str, run_id: str, path: str) -> bytes | None:
    """The content of an artifact; None if the server has no such artifact or cannot read it itself.

    Raises:
        MlflowException: the server does not answer.
    """
    endpoint = f"{ARTIFACT}?run_uuid={quote(run_id)}&path={quote(path)}"
    response = _request(uri, endpoint, "GET", max_retries=0, raise_on_status=False)
    return bytes(response.content) if response.status_code == 200 else None


def _request(uri: str, endpoint: str, method: str, **options: Any) -> Any:
    credentials = get_default_host_creds(uri)  # type: ignore[no-untyped-call]
    return rest_utils.http_request(credentials, endpoint, method, **options)  # type: ignore[no-untyped-call]


def _record(run: Mapping[str, Any]) -> RunRecord:
    info, data = run["info"], run.get("data", {})
    metrics = data.get("metrics", [])
    return record_of(
        run_id=info["run_id"],
        name=info.get("run_name", ""),
        status=info["status"],
        started_ms=int(info.get("start_time", 0)),
        settings=_texts(data.get("params", [])),
        figures={entry["key"]: float(entry.get("value", 0.0)) for entry in metrics},  # also of "NaN" and "Infinity"
        tags=_texts(data.get("tags", [])),
    )


def _texts(entries: Sequence[Mapping[str, str]]) -> dict[str, str]:
    return {entry["key"]: entry.get("value", "") for entry in entries}

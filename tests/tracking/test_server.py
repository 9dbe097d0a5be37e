"""A tracking server, started here, gets the same record as a file."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from loaderlab.cli.compose import compose, typed
from loaderlab.config import CompareConfig, TrackingConfig, TrainConfig, UserError
from loaderlab.runs import compare_runs, job, run
from loaderlab.system.terminal import Terminal
from loaderlab.tracking import open_store
from loaderlab.tracking.records import NOT_FINITE
from loaderlab.tracking.store import _recorded
from tests.served import served


@pytest.fixture
def server(empty_store: Path, tmp_path: Path) -> Iterator[str]:
    shutil.copy(empty_store, tmp_path / "server.db")
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        f"sqlite:///{tmp_path / 'server.db'}",
        "--artifacts-destination",
        str(tmp_path / "server_artifacts"),
        "--workers",
        "1",
    ]
    with served(command, tmp_path, {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}) as address:
        yield address


def test_a_server_gets_the_same_record_as_a_file(
    server: str, store_uri: str, make_config: Callable[..., TrainConfig], terminal: Terminal, tmp_path: Path
) -> None:
    records = []
    for uri in (store_uri, server):
        config = make_config("steps=25", f"tracking.uri={uri}")
        result = run.run(config, job.single(config, ["steps=25"]), terminal)
        client = MlflowClient(uri)
        recorded = client.get_run(result.run_id)
        artifacts = {entry.path for entry in client.list_artifacts(result.run_id)}
        params = {name: value for name, value in recorded.data.params.items() if name != "tracking.uri"}
        verdict_tags = ("bottleneck", "advice")  # a fed run has neither
        tags = {name for name in recorded.data.tags if not name.startswith(("mlflow.", *verdict_tags))}
        metrics = {name for name in recorded.data.metrics if not name.startswith("starvation/")}
        losses = [(entry.step, entry.value) for entry in client.get_metric_history(result.run_id, "train/loss")]
        records.append((recorded.info.status, params, metrics, tags, artifacts, losses[:2]))
    in_file, on_server = records
    assert in_file == on_server
    assert f"open {server}" in "\n".join(terminal.said)
    compare_config = typed(
        compose("compare", [f"tracking.uri={server}", "runs=all", f"output={tmp_path / 'out'}"]), CompareConfig
    )
    compare_runs.run_compare(compare_config, terminal)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "When does each arm wait for data?" in page  # needs the steps, which were read from the server


def test_runs_read_from_a_server_are_those_of_mlflows_own_client(server: str, tmp_path: Path) -> None:
    store = open_store(TrackingConfig(server, "test"), tmp_path)
    with store.start("a run", None, {"arm": "é", NOT_FINITE: "val/loss"}) as run:
        run.params([("empty", ""), ("text", "ä\n=ö"), ("number", 0.1)])
        run.metric("train/loss", 0.0, 3)
        run.metric("train/loss", -1e-300, 4)
        run.metric("val/loss", 2.0, 4)
    with store.start("child", run.run_id, {}):
        pass
    store.client.log_metric(run.run_id, "infinite", math.inf)
    records = store.runs()
    runs = store.client.search_runs([store.experiment_id], order_by=["attributes.start_time ASC"])
    assert records == [_recorded(run) for run in runs]
    assert [record.name for record in records] == ["a run", "child"]
    assert records[0].figures["train/loss"] == -1e-300
    assert store.runs("tags.arm = 'é'") == records[:1]
    with pytest.raises(UserError, match="MLflow does not understand it"):
        store.runs("nonsense")


def test_an_artifact_is_read_wherever_the_server_keeps_it(server: str, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a b é.txt").write_text("ü", encoding="utf-8")
    store = open_store(TrackingConfig(server, "test"), tmp_path)
    with store.start("a run", None, {}) as run:
        run.artifacts(tmp_path / "files", "under")
    assert store.read(run.run_id, "under/a b é.txt") == "ü"
    assert store.read(run.run_id, "under/nosuch.txt") is None

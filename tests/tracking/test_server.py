"""A tracking server, started here, gets the same record as a file."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from loaderlab.cli.compose import compose, typed
from loaderlab.config import CompareConfig, TrainConfig
from loaderlab.runs import compare_runs, job, run
from loaderlab.system.terminal import Terminal
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

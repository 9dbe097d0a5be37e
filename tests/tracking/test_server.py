"""The same record on a tracking server: a real one, started here."""

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
        str(tmp_path / "kept"),
        "--workers",
        "1",
    ]
    with served(command, tmp_path, {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}) as address:
        yield address


def test_a_server_gets_what_a_file_gets(
    server: str, store_uri: str, make_config: Callable[..., TrainConfig], terminal: Terminal, tmp_path: Path
) -> None:
    kept = []
    for uri in (store_uri, server):
        config = make_config("steps=25", f"tracking.uri={uri}")
        result = run.run(config, job.single(config, ["steps=25"]), terminal)
        client = MlflowClient(uri)
        found = client.get_run(result.run_id)
        artifacts = {entry.path for entry in client.list_artifacts(result.run_id)}
        params = {name: value for name, value in found.data.params.items() if name != "tracking.uri"}
        of_the_verdict = ("bottleneck", "advice")  # a fed run has none
        tags = {name for name in found.data.tags if not name.startswith(("mlflow.", *of_the_verdict))}
        metrics = {name for name in found.data.metrics if not name.startswith("starvation/")}
        losses = [(entry.step, entry.value) for entry in client.get_metric_history(result.run_id, "train/loss")]
        kept.append((found.info.status, params, metrics, tags, artifacts, losses[:2]))
    in_file, on_server = kept
    assert in_file == on_server
    assert f"open {server}" in "\n".join(terminal.said)
    asked = typed(
        compose("compare", [f"tracking.uri={server}", "runs=all", f"output={tmp_path / 'out'}"]), CompareConfig
    )
    compare_runs.run_compare(asked, terminal)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "When does each arm wait for data?" in page  # the steps came over the wire too

"""The worked examples as runs and sweeps: their record, their comparison and its page, and a loss that falls."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow.artifacts
import pytest
from mlflow.tracking import MlflowClient

from loaderlab.config import PROJECT, TrainConfig
from loaderlab.runs import job, run
from loaderlab.system.terminal import Terminal

Make = Callable[..., TrainConfig]
EVALUATED = {  # recorded metrics of each example, besides the training loss
    "detection": {"task/class_loss", "task/box_loss", "task/cells_right", "val/loss", "val/cells_right"},
    "segmentation": {"task/pixel_accuracy", "val/loss", "val/mean_iou"},
    "packed_text": {"task/used_pct", "val/loss"},
    "video": {"task/error_px_per_s", "val/loss", "val/error_px_per_s"},
}
OWN_COLLATE = ("detection", "packed_text")
every_example = pytest.mark.parametrize("name", EVALUATED)


def overrides(name: str) -> list[str]:
    """The choices of `docs/any_task.md` for an example."""
    module = f"experiments.examples.{name}"
    settings = ["data=custom", f"data.target={module}:make_datasets", "model=custom"]
    settings += [f"model.target={module}:make_model", f"model.step={module}:step", "optimizer.lr=3e-3", "device=cpu"]
    if name in OWN_COLLATE:
        settings.append(f"data.collate={module}:collate")
    if name == "packed_text":
        return [*settings, f"data.count={module}:count_tokens"]
    return [*settings, f"model.evaluate={module}:evaluate"]


def losses(client: MlflowClient, run_id: str) -> list[float]:
    """The recorded training losses of a run, in order."""
    return [entry.value for entry in client.get_metric_history(run_id, "train/loss")]


def assert_falls(values: list[float]) -> None:
    tail = values[-3:]
    assert sum(tail) / len(tail) < 0.75 * values[0], values


@pytest.mark.parametrize(
    "name", [*OWN_COLLATE, *(pytest.param(name, marks=pytest.mark.slow) for name in ("segmentation", "video"))]
)
def test_a_run_of_an_example(name: str, make_config: Make, terminal: Terminal) -> None:
    small = ["batch_size=16", "loader.num_workers=0", "steps=24", "tracking.log_every=1", "+data.options.num_train=192"]
    result = run.run(config := make_config(*overrides(name), *small), job.single(config, []), terminal)
    client = MlflowClient(config.tracking.uri)
    record = client.get_run(result.run_id)
    assert record.info.status == "FINISHED"
    assert set(record.data.metrics) >= EVALUATED[name]
    assert "val/accuracy" not in record.data.metrics
    assert_falls(losses(client, result.run_id))
    page = mlflow.artifacts.load_text(f"{record.info.artifact_uri}/report.md")
    assert all(f"`{metric}`" in page for metric in EVALUATED[name])


@pytest.mark.slow
@every_example
def test_a_sweep_of_an_example(name: str, store_uri: str, tmp_path: Path) -> None:
    """Two counts of workers, with the comparison at its end, and once more by `compare` with its page."""

    def start(program: str, *arguments: str) -> str:
        command = [sys.executable, "-m", f"experiments.{program}", *arguments, f"tracking.uri={store_uri}"]
        path = f"{PROJECT}:{PROJECT / 'src'}"
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    short = ["batch_size=16", "steps=48", "measure=bare", "torch_threads=1", f"checkpoint.dir={tmp_path / 'outputs'}"]
    start("train", "-m", "loader.num_workers=0,2", *overrides(name), *short)
    compared = start("compare", "output=report")
    assert "num_workers=0" in compared
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "sweep loader.num_workers=0,2" in page
    assert "parity: same work" in page

    client = MlflowClient(store_uri)
    experiment = client.get_experiment_by_name("loaderlab")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    assert [entry.info.status for entry in runs] == 3 * ["FINISHED"]
    without, two = (losses(client, entry.info.run_id) for entry in runs[1:])
    assert_falls(without)
    assert two == pytest.approx(without, rel=0.02)  # the same batches in the same order

"""Runs of a task of one's own: trained, evaluated, resumed, checked, emulated; and wrong functions that are refused at the start."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import mlflow.artifacts
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from loaderlab.config import TrainConfig, UserError
from loaderlab.runs import job, run
from loaderlab.system.terminal import Terminal
from tests import own_task
from tests.own_task import OWN

Make = Callable[..., TrainConfig]
HERE = own_task.__name__
SHORT = [*OWN, "loader.num_workers=0", "epochs=2", "tracking.log_every=2", "optimizer.lr=0.01"]


def go(config: TrainConfig, terminal: Terminal) -> Run:
    """The record of a finished run."""
    result = run.run(config, job.single(config, []), terminal)
    return MlflowClient(config.tracking.uri).get_run(result.run_id)


def short_for(overrides: list[str]) -> list[str]:
    """`SHORT`, without the setting of the native loader if there is another one."""
    return [text for text in SHORT if not (text.startswith("loader.") and overrides[0].startswith("loader="))]


def test_it_trains_evaluates_and_records(make_config: Make, terminal: Terminal) -> None:
    config = make_config(*SHORT, f"model.evaluate={HERE}:evaluate", f"data.count={HERE}:count", "epochs=8")
    record = go(config, terminal)
    client = MlflowClient(config.tracking.uri)
    losses = [point.value for point in client.get_metric_history(record.info.run_id, "train/loss")]
    assert losses[-1] < losses[0] / 2
    history = client.get_metric_history(record.info.run_id, "task/boxes")
    points = {point.step: point.value for point in history}  # the last one is recorded again, as the run's result
    assert points.keys() == set(range(2, 49, 2))
    assert sum(points.values()) / len(points) == pytest.approx(48 / 6)  # 48 boxes in 6 batches
    assert record.data.metrics["val/boxes"] < 3
    assert record.data.metrics["val/loss"] < losses[0]
    assert "val/accuracy" not in record.data.metrics
    assert record.data.params["model.step"] == f"{HERE}:step"
    assert "data      custom: 24 training, 7 validation samples, batches of its own" in terminal.said
    page = record.data.tags["mlflow.note.content"]
    assert "| task/root |" in page
    assert f"step {HERE}:step" in page


@pytest.mark.parametrize(
    "overrides",
    [
        ["loader.num_workers=2", "measure=default", "steps=30", "epochs=auto"],
        ["loader=replay", "measure=default", "measure.probe_s=0.01"],
        ["+data.options={stream: true}", "optimizer.schedule=constant", "drop_last=false", "accumulate=4"],
        pytest.param(["precision=bf16"], marks=pytest.mark.slow),
    ],
    ids=lambda overrides: overrides[0],
)
def test_other_settings(make_config: Make, terminal: Terminal, overrides: list[str]) -> None:
    record = go(make_config(*short_for(overrides), *overrides), terminal)
    assert record.info.status == "FINISHED"
    assert "val/loss" in record.data.metrics
    assert not [text for text in terminal.said if "Error" in text]


def test_an_emulated_accelerator_needs_no_model(make_config: Make, terminal: Terminal) -> None:
    data = [f"data.target={HERE}:datasets", f"data.collate={HERE}:collate", f"data.count={HERE}:count"]
    emulated = ["accelerator=custom", "accelerator.step_ms=2", "loader.num_workers=1", "epochs=4"]
    record = go(make_config("data=custom", *data, *emulated), terminal)
    assert record.info.status == "FINISHED"
    assert record.data.metrics["rate/samples_per_s"] > 0
    assert not {name for name in record.data.metrics if name.startswith(("task/", "val/"))}


@pytest.mark.slow
def test_a_resumed_run_ends_like_an_uninterrupted_one(make_config: Make, terminal: Terminal) -> None:
    save = ["checkpoint.every_minutes=0", "checkpoint.keep=true", "optimizer.schedule=constant"]
    whole = go(make_config(*SHORT, *save, "epochs=4"), terminal)
    go(make_config(*SHORT, *save, "epochs=2"), terminal)
    resumed = go(make_config(*SHORT, *save, "epochs=4", "resume=latest"), terminal)
    assert resumed.data.tags["resumed_from"] != ""
    client = MlflowClient(make_config().tracking.uri)
    assert min(point.step for point in client.get_metric_history(resumed.info.run_id, "task/root")) == 14
    assert whole.data.metrics.keys() == resumed.data.metrics.keys()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_parity_compares_contents_by_ids(make_config: Make, terminal: Terminal, num_workers: int) -> None:
    config = make_config(*SHORT, "measure.parity=true", f"loader.num_workers={num_workers}", "epochs=1")
    record = go(config, terminal)
    assert record.data.tags["parity"] == "same work"
    folder = mlflow.artifacts.download_artifacts(f"{record.info.artifact_uri}/parity.json")
    assert json.loads(Path(folder).read_text())["notes"] == []


REFUSED = [
    (["model.step=nosuch:step"], "model.step=nosuch:step: importing nosuch failed"),
    ([f"model.step={HERE}:nosuch"], f"{HERE} has no nosuch"),
    ([f"model.step={HERE}:no_batch"], r"it is called as no_batch\(model, batch\)"),
    ([f"model.step={HERE}:failing"], "failed for a batch of 4 samples: KeyError: 'masks'"),
    ([f"model.step={HERE}:detached"], "its loss has no graph"),
    ([f"model.evaluate={HERE}:badly_named"], "a metric is named 'AP@50'"),
    ([f"data.collate={HERE}:stacked"], "data.collate=.*:stacked: it failed for the items"),
    (["loader=spdl"], "loader=spdl: cannot load batches of a task of your own.*loader=native"),
    (["loader=dali"], "loader=dali: cannot load batches of a task of your own.*loader=native"),
    (["model.channels_last=true"], "model.channels_last=true: needs images, but the batches are your own"),
]


@pytest.mark.parametrize(("overrides", "message"), REFUSED, ids=lambda value: str(value)[:60])
def test_wrong_functions_are_refused_before_training(
    make_config: Make, terminal: Terminal, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        go(make_config(*short_for(overrides), *overrides), terminal)
    assert not [text for text in terminal.said if "after" in text and "steps" in text]


MODEL = [text for text in OWN if text.startswith("model")]
DATA = [text for text in OWN if not text.startswith("model")]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([*OWN[:2], *DATA], "data.collate=.*: makes batches for a step of your own, and there is none. .*model.step="),
        (["data=custom", OWN[4], "data.count=a:b"], "data.count=a:b: counts the samples .*model.step="),
        ([*OWN[:2], "model.evaluate=a:b"], "model.evaluate=a:b: needs a step of your own. .*model.step=a:step"),
        ([*OWN, "data.input_key=image"], "data.input_key=image: has no effect, .*data.input_key=null"),
        ([*OWN, "data.num_classes=3"], "data.num_classes=3: has no effect"),
    ],
)
def test_settings_without_effect_are_refused(make_config: Make, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_config(*overrides)


def test_records_of_other_runs_have_no_new_settings(make_config: Make) -> None:
    names = {name for name, _ in make_config(*OWN[:2], *DATA[:2], "data.num_classes=2").recorded()}
    assert not names & {"model.step", "model.evaluate", "data.collate", "data.count"}


def test_a_step_of_ones_own_with_our_data(make_config: Make, terminal: Terminal) -> None:
    model = ["model=custom", f"model.target={__name__}:classifier", f"model.step={__name__}:smoothed"]
    record = go(make_config(*model, "loader.num_workers=0", "epochs=1"), terminal)
    assert "val/loss" in record.data.metrics


def classifier():  # type: ignore[no-untyped-def]
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))


def smoothed(model, batch):  # type: ignore[no-untyped-def]
    import torch.nn.functional as F

    inputs, targets = batch
    return F.cross_entropy(model(inputs), targets, label_smoothing=0.1)

"""Runs with measure.workers=true: the slow line is named in the record, on the page and on the terminal."""

from __future__ import annotations

import csv
import json
import time
from io import StringIO
from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient
from torch.utils.data import Dataset, IterableDataset

from loaderlab import metrics
from loaderlab.lines.control import NOT_BEGUN
from loaderlab.system.terminal import Terminal
from tests.runs.test_run import Make, artifact, go

SETTINGS = (
    "data=custom",
    "+data.options={}",
    "data.num_classes=2",
    "accelerator=custom",
    "accelerator.step_ms=1",
    "accelerator.host_ms=0",
    "measure.workers=true",
    "measure.workers_s=0.6",
)
SLEEPS = "time.sleep(0.002)  # the planted line"


class Planted(Dataset[tuple[torch.Tensor, int]]):
    """Samples with a planted slow line."""

    def __len__(self) -> int:
        return 800

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        time.sleep(0.002)  # the planted line
        return torch.full((8,), float(index)), index % 2


class PlantedStream(IterableDataset[tuple[torch.Tensor, int]]):
    def __iter__(self):  # type: ignore[no-untyped-def]
        for index in range(800):
            time.sleep(0.002)  # the planted line
            yield torch.full((8,), float(index)), index % 2


def config_of(make_config: Make, name: str, *overrides: str):  # type: ignore[no-untyped-def]
    return make_config(*SETTINGS, f"data.target={__name__}:{name}", *overrides)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("Planted", ["loader.num_workers=0"]),
        ("Planted", ["loader.num_workers=1"]),
        pytest.param("Planted", ["loader.num_workers=2", "loader.start_method=spawn"], marks=pytest.mark.slow),
        pytest.param(
            "Planted",
            ["loader.num_workers=2", "loader.persistent_workers=false", "measure.epoch_steps=40"],
            marks=pytest.mark.slow,
        ),
        pytest.param("PlantedStream", ["loader.num_workers=1"], marks=pytest.mark.slow),
        pytest.param("PlantedStream", ["loader.num_workers=0"], marks=pytest.mark.slow),
    ],
)
def test_the_planted_line_is_the_first(name: str, overrides: list[str], make_config: Make, terminal: Terminal) -> None:
    config = config_of(make_config, name, "steps=240", "epochs=auto", *overrides)
    result = go(config, terminal)
    run = MlflowClient(config.tracking.uri).get_run(result.run_id)
    slow = json.loads(artifact(config, result.run_id, "slow_lines_emulated.json"))
    assert (slow["top"]["text"], slow["top"]["stage"]) == (SLEEPS, "dataset")
    assert slow["top"]["exposed_pct"] > 60
    assert slow["num_workers"] == int(overrides[0][-1])
    assert run.data.tags["slow_line"] == slow["sentence"]
    assert f"{Path(__file__).name}:" in slow["sentence"]
    assert run.data.metrics[metrics.LINES_EXPOSED_PCT] == slow["top"]["exposed_pct"]
    assert run.data.metrics[metrics.LINES_RUN_X] == slow["top"]["gain"]["run_x"] > 1.5
    assert any(f"Slow line: {slow['sentence']}." in text for text in terminal.said)
    assert any(text.startswith("warning: measure.workers=true: ") and "may be off by" in text for text in terminal.said)
    page = artifact(config, result.run_id, "report_emulated.md")
    assert "\n## Slow lines\n" in page
    assert slow["top"]["place"] in page.partition("## Slow lines")[2]
    assert "\n## Slow lines\n" in run.data.tags["mlflow.note.content"]
    table = json.loads(artifact(config, result.run_id, "slow_lines_table_emulated.json"))
    assert dict(zip(table["columns"], table["data"][0], strict=True))["source"] == SLEEPS
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"])[0]["path"] == "slow_lines_table_emulated.json"
    assert "__getitem__" in artifact(config, result.run_id, "slow_lines_emulated.html") or name == "PlantedStream"
    rows = list(csv.DictReader(StringIO(artifact(config, result.run_id, "steps_emulated.csv"))))
    measured = [row["measured"] == "1" for row in rows]
    assert sum(measured) >= 60
    assert not any(measured[6:20])  # the profile begins after the warm-up


def test_a_loader_without_worker_processes_is_measured_without_a_profile(make_config: Make, terminal: Terminal) -> None:
    config = make_config("measure.workers=true", "loader=replay", "epochs=1", "evaluate=false")
    result = go(config, terminal)
    why = "not applicable here: loader=replay prepares its batches in no worker process. Type: loader=native"
    assert f"warning: measure.workers=true: {why}" in terminal.said
    assert metrics.LINES_SHARE_PCT not in result.figures


def test_a_run_that_ends_too_early_says_why_it_has_no_slow_lines(make_config: Make, terminal: Terminal) -> None:
    config = config_of(make_config, "Planted", "loader.num_workers=0", "steps=4", "epochs=auto")
    result = go(config, terminal)
    more = "A longer run may have some: steps=500"
    assert f"warning: measure.workers=true: no slow lines, since {NOT_BEGUN}. {more}" in terminal.said
    tags = MlflowClient(config.tracking.uri).get_run(result.run_id).data.tags
    assert tags["slow_line"] == f"no slow line: {NOT_BEGUN}"
    assert json.loads(artifact(config, result.run_id, "slow_lines_emulated.json"))["problem"] == NOT_BEGUN

"""User code that ends its process: with every loader, the record is complete and the error is one line."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
from mlflow.tracking import MlflowClient
from torch import nn
from torch.utils.data import Dataset

from loaderlab.config import TrainConfig, UserError
from loaderlab.runs import loader_set, outputs
from loaderlab.runs import run as run_module
from loaderlab.runs.job import single
from loaderlab.system.terminal import Terminal

Make = Callable[..., TrainConfig]
COUNT = 160


class Ending(Dataset[tuple[torch.Tensor, int]]):
    """Ends its process, in the given way, after a quarter of the samples."""

    classes = ("a", "b")

    def __init__(self, end: str) -> None:
        self.end, self.num_read = end, 0

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.num_read += 1
        if self.num_read == COUNT // 4:
            match self.end:
                case "raise SystemExit":
                    raise SystemExit
                case "exit()":
                    raise SystemExit("by the user")
                case "os._exit(3)":
                    os._exit(3)
                case name:
                    os.kill(os.getpid(), signal.Signals[name])
        return torch.full((4,), float(index)), index % 2


def target(name: str) -> str:
    return f"{__name__}:{name}"


def failed(make_config: Make, terminal: Terminal, *overrides: str) -> tuple[UserError, Any, set[str]]:
    """The error, the run's record and the names of its artifacts."""
    config = make_config("batch_size=4", "epochs=2", *overrides)
    with pytest.raises(UserError) as error:
        run_module.run(config, single(config, []), terminal)
    client = MlflowClient(config.tracking.uri)
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    assert experiment is not None
    (record,) = client.search_runs([experiment.experiment_id])
    return error.value, record, {entry.path for entry in client.list_artifacts(record.info.run_id)}


@pytest.mark.parametrize(
    ("end", "loader", "message"),
    [
        ("raise SystemExit", "loader=native loader.num_workers=2", "SystemExit"),
        ("raise SystemExit", "loader=native loader.num_workers=0", "SystemExit"),
        ("exit()", "loader=spdl", "SystemExit: by the user"),
        ("exit()", "loader=dali", "SystemExit: by the user"),
        ("os._exit(3)", "loader=native loader.num_workers=2", "ended with exit code 3"),
        ("SIGSEGV", "loader=native loader.num_workers=2", "was ended by SIGSEGV"),
        ("SIGKILL", "loader=native loader.num_workers=2 loader.persistent_workers=false", "was ended by SIGKILL"),
    ],
)
def test_the_record_is_complete(end: str, loader: str, message: str, make_config: Make, terminal: Terminal) -> None:
    error, record, names = failed(
        make_config,
        terminal,
        "model=feedforward",
        "model.hidden=[2]",
        "data=custom",
        f"data.target={target('Ending')}",
        f"+data.options={{end:'{end}'}}",
        *loader.split(),
    )
    assert message in str(error)
    assert "\n" not in str(error)
    assert record.info.status == "FAILED"
    assert record.data.tags["error"] == str(error)
    assert {"steps.csv", "report.md", "log.txt", "traceback.txt"} <= names
    assert "train/loss" in record.data.metrics


class EndingModel(nn.Linear):
    """Ends the process in its fifth step."""

    steps = 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.steps += torch.is_grad_enabled()
        if self.steps == 5:
            raise SystemExit(0)
        return super().forward(inputs)


def ending_model() -> nn.Module:
    return EndingModel(4, 2)


def exits() -> None:
    raise SystemExit(0)


def test_a_model_that_ends_the_process(make_config: Make, terminal: Terminal) -> None:
    error, record, names = failed(
        make_config,
        terminal,
        "data=vectors",
        "data.num_features=4",
        "data.num_classes=2",
        "model=custom",
        "model=custom",
        f"model.target={target('ending_model')}",
    )
    assert str(error) == "the code of the model or the dataset ended the process: SystemExit: 0"
    assert record.data.tags["error"] == str(error)
    assert {"steps.csv", "traceback.txt"} <= names


def test_a_function_of_the_user_that_ends_the_process(make_config: Make, terminal: Terminal) -> None:
    error, record, _ = failed(make_config, terminal, "data=custom", f"data.target={target('exits')}")
    assert "failed: SystemExit: 0" in str(error)
    assert record.info.status == "FAILED"


def test_loaders_are_closed_before_the_record_is_written(
    make_config: Make, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the death of another worker, raised in torch's signal handler, could interrupt the recording."""
    order: list[str] = []
    close, write = loader_set.LoaderSet.close, outputs.record

    def closed(loaders: loader_set.LoaderSet) -> None:
        order.append("closed")
        close(loaders)

    def recorded(*args: Any) -> None:
        order.append("recorded")
        write(*args)

    monkeypatch.setattr(loader_set.LoaderSet, "close", closed)
    monkeypatch.setattr("loaderlab.runs.run.record", recorded)
    failed(make_config, terminal, "data=custom", f"data.target={target('Ending')}", "+data.options={end:'exit()'}")
    assert order[:2] == ["closed", "recorded"]

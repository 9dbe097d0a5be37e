"""BatchNorm and a last batch of one sample: refused before training, in one line, and only where it comes to that."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from loaderlab.config import TrainConfig, UserError
from loaderlab.runs.job import single
from loaderlab.runs.run import run
from loaderlab.system.terminal import Terminal
from tests.runs.test_false_lengths import Stream

Make = Callable[..., TrainConfig]


def normalized() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def pairs(count: int) -> list[tuple[torch.Tensor, int]]:
    return [(torch.rand(3), index % 2) for index in range(count)]


def stream(count: int) -> Stream:
    return Stream(count)


def go(make_config: Make, terminal: Terminal, target: str, count: int, *overrides: str) -> str:
    config = make_config(
        "data=custom",
        f"data.target={__name__}:{target}",
        f"+data.options={{count:{count}}}",
        "data.num_classes=2",
        "model=custom",
        f"model.target={__name__}:normalized",
        "loader.num_workers=0",
        "batch_size=8",
        *overrides,
    )
    return run(config, single(config, []), terminal).status


@pytest.mark.parametrize(
    ("count", "overrides", "message"),
    [
        (
            17,
            "epochs=1 drop_last=false",
            r"^drop_last=false: the last of 17 training samples .*\. Type: drop_last=true",
        ),
        (16, "epochs=1 batch_size=1", r"^batch_size=1: a BatchNorm layer .*\. Type for example: batch_size=2"),
        (1, "epochs=1 drop_last=false", "^data=custom: there is one training sample"),
    ],
)
def test_refused_before_training(
    count: int, overrides: str, message: str, make_config: Make, terminal: Terminal
) -> None:
    with pytest.raises(UserError, match=message) as error:
        go(make_config, terminal, "pairs", count, *overrides.split())
    assert "\n" not in str(error.value)
    assert not any("training loss" in line for line in terminal.said)


def test_a_stream_that_comes_to_it(make_config: Make, terminal: Terminal) -> None:
    with pytest.raises(UserError, match=r"^drop_last=false: a batch has one sample, and .*\. Type: drop_last=true"):
        go(make_config, terminal, "stream", 17, "epochs=1", "drop_last=false", "optimizer.schedule=constant")


@pytest.mark.parametrize(
    ("count", "overrides"),
    [(17, "epochs=1 drop_last=true"), (18, "epochs=1 drop_last=false"), (17, "steps=2 drop_last=false")],
)
def test_trained_where_no_batch_of_one_is_reached(
    count: int, overrides: str, make_config: Make, terminal: Terminal
) -> None:
    assert go(make_config, terminal, "pairs", count, *overrides.split()) == "FINISHED"

"""A model that cannot take a last batch of one sample: refused before training, in one line, and only if the run reaches it."""

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


class Squeezed(nn.Module):
    """Its logits of one sample have the shape (2,)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layer(inputs)[..., None].squeeze()
        return logits


class Raising(Squeezed):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs) == 1:
            raise KeyError("no pair")
        return super().forward(inputs)


MODELS = {
    "normalized": "a BatchNorm layer of the model cannot train on a batch of one sample",
    "Squeezed": r"the model returns \(2,\) for a batch of one sample",
    "Raising": "the model fails on a batch of one sample: KeyError: 'no pair'",
}


def pairs(count: int) -> list[tuple[torch.Tensor, int]]:
    return [(torch.rand(3), index % 2) for index in range(count)]


def stream(count: int) -> Stream:
    return Stream(count)


def with_validation(count: int) -> tuple[list[tuple[torch.Tensor, int]], list[tuple[torch.Tensor, int]]]:
    return pairs(16), pairs(count)


def train_status(
    make_config: Make, terminal: Terminal, target: str, count: int, *overrides: str, model: str = "normalized"
) -> str:
    config = make_config(
        "data=custom",
        f"data.target={__name__}:{target}",
        f"+data.options={{count:{count}}}",
        "data.num_classes=2",
        "model=custom",
        f"model.target={__name__}:{model}",
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
            r"^drop_last=false: the last of 17 training samples is alone in its batch, and {why}.*\. Type: drop_last=true",
        ),
        (16, "epochs=1 batch_size=1", r"^batch_size=1: {why}.*\. Type for example: batch_size=2"),
        (1, "epochs=1 drop_last=false", "^data=custom: there is one training sample, and {why}"),
    ],
)
@pytest.mark.parametrize("model", MODELS)
def test_refused_before_training(
    model: str, count: int, overrides: str, message: str, make_config: Make, terminal: Terminal
) -> None:
    with pytest.raises(UserError, match=message.format(why=MODELS[model])) as error:
        train_status(make_config, terminal, "pairs", count, *overrides.split(), model=model)
    assert "\n" not in str(error.value)
    assert not any("training loss" in line for line in terminal.said)


@pytest.mark.parametrize("model", MODELS)
def test_a_stream_that_ends_with_one_sample(model: str, make_config: Make, terminal: Terminal) -> None:
    message = rf"^drop_last=false: a batch has one sample, and {MODELS[model]}.*\. Type: drop_last=true"
    with pytest.raises(UserError, match=message) as error:
        train_status(
            make_config,
            terminal,
            "stream",
            17,
            "epochs=1",
            "drop_last=false",
            "optimizer.schedule=constant",
            model=model,
        )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("model", ["Squeezed", "Raising"])
def test_a_last_validation_batch_of_one(model: str, make_config: Make, terminal: Terminal) -> None:
    message = rf"^evaluate=true: the last of 9 validation samples is alone in its batch, and {MODELS[model]}.*\. Type: evaluate=false"
    with pytest.raises(UserError, match=message):
        train_status(make_config, terminal, "with_validation", 9, "epochs=1", model=model)
    assert not any("training loss" in line for line in terminal.said)


@pytest.mark.parametrize(
    ("model", "count", "overrides"), [("normalized", 9, ""), ("Squeezed", 9, "evaluate=false"), ("Squeezed", 10, "")]
)
def test_validation_that_the_model_takes(
    model: str, count: int, overrides: str, make_config: Make, terminal: Terminal
) -> None:
    assert (
        train_status(make_config, terminal, "with_validation", count, "epochs=1", *overrides.split(), model=model)
        == "FINISHED"
    )


@pytest.mark.parametrize(
    ("count", "overrides"),
    [(17, "epochs=1 drop_last=true"), (18, "epochs=1 drop_last=false"), (17, "steps=2 drop_last=false")],
)
def test_trains_if_no_batch_of_one_is_reached(
    count: int, overrides: str, make_config: Make, terminal: Terminal
) -> None:
    assert train_status(make_config, terminal, "pairs", count, *overrides.split()) == "FINISHED"

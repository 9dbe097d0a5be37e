"""The arguments of `meter.step`: any number is accepted, and anything else is a one-line error."""

from __future__ import annotations

import math
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from loaderlab import watch
from loaderlab.attach.step_arguments import loss_scalar, sample_count
from loaderlab.config import UserError

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
LOSSES: list[Any] = [
    0.5,
    np.float64(0.5),
    np.float32(0.5),
    np.float16(0.5),
    np.array(0.5),
    np.array([0.5]),
    torch.tensor(0.5),
    torch.tensor([0.5]),
    torch.tensor([[0.5]], dtype=torch.bfloat16),
    torch.tensor(0.5, requires_grad=True),
    torch.tensor(0.5, dtype=torch.float64),
    Fraction(1, 2),
    Decimal("0.5"),
]


def batches(count: int) -> Iterator[int]:
    yield from range(count)


@pytest.mark.parametrize("device", DEVICES)
def test_losses_of_every_type_are_recorded(device: str) -> None:
    with watch(device, warmup_steps=0) as meter:
        for index in meter.batches(batches(len(LOSSES))):
            meter.step(4, LOSSES[index])
    assert [step.loss for step in meter._loop().steps] == [0.5] * len(LOSSES)
    assert meter.figures()["train/loss"] == 0.5


@pytest.mark.parametrize("value", [1, True, np.int64(1), torch.tensor(1), np.bool_(True)], ids=repr)
def test_whole_numbers_of_every_type_are_losses(value: Any) -> None:
    loss = loss_scalar(value)
    assert loss is not None
    assert (float(loss), loss.shape) == (1.0, ())


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float32("nan")], ids=repr)
def test_a_loss_that_is_not_finite_is_left_out_of_the_mean(value: Any) -> None:
    with watch("cpu", warmup_steps=0) as meter:
        for _ in meter.batches(batches(3)):
            meter.step(4, value)
    assert not any(math.isfinite(step.loss) for step in meter._loop().steps)
    assert "train/loss" not in meter.figures()


def test_a_missing_loss_stays_none() -> None:
    assert loss_scalar(None) is None


@pytest.mark.parametrize(
    "count", [4, 4.0, np.int32(4), np.uint8(4), np.float32(4), torch.tensor(4), np.array([[4]])], ids=repr
)
def test_counts_of_every_type(count: Any) -> None:
    assert (sample_count(count), type(sample_count(count))) == (4, int)


BAD_COUNTS: list[Any] = [0, -1, 4.5, math.nan, math.inf, None, "4", [4], np.array([4, 4]), torch.tensor([4, 4]), 1j]
BAD_LOSSES: list[Any] = [
    "0.5",
    [0.5],
    {},
    object(),
    1j,
    10**400,
    np.array([1.0, 2.0]),
    torch.tensor([1.0, 2.0]),
    torch.tensor([]),
    torch.tensor(1j),
]


@pytest.mark.parametrize(
    ("count", "loss"),
    [(count, None) for count in BAD_COUNTS] + [(4, loss) for loss in BAD_LOSSES],
    ids=lambda one: f"{one}"[:9],
)
def test_anything_else_is_a_one_line_error_and_the_step_can_still_end(count: Any, loss: Any) -> None:
    with watch("cpu", warmup_steps=0) as meter:
        for _ in meter.batches(batches(2)):
            with pytest.raises(UserError, match=r"^watch: meter\.step\((num_samples|loss)=.*must be") as refused:
                meter.step(count, loss)
            assert "\n" not in str(refused.value)
            assert len(str(refused.value)) < 200
            meter.step(4)
    assert len(meter._loop().steps) == 2

"""Models with and without support for a batch of one sample, in training and in evaluation."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import nn

from loaderlab.training.batch_of_one import BatchOfOne, logits_of, problem
from tests.training.test_models import CPU, vectors

NUM_CLASSES = 3
ERRORS = (ValueError, RuntimeError, KeyError, AssertionError, SystemExit)


class Squeeze(nn.Module):
    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return batch.squeeze()


class View(nn.Module):
    """Returns one row for any batch, which is wrong for two samples too."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return batch.view(*self.shape)


class Fails(nn.Module):
    def __init__(self, kind: type[BaseException]) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        if len(batch) == 1:
            raise self.kind("one\nsample")
        return batch


class Tuple(nn.Module):
    def forward(self, batch: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor]:
        return (batch,) if len(batch) == 1 else batch


PARTS = st.one_of(
    st.just("normalize"),
    st.just("squeeze"),
    st.just("view"),
    st.just("tuple"),
    st.sampled_from(ERRORS),
    st.just("dropout"),
)


def part(kind: str | type[BaseException]) -> nn.Module:
    match kind:
        case "normalize":
            return nn.BatchNorm1d(NUM_CLASSES)
        case "squeeze":
            return Squeeze()
        case "view":
            return View(-1, NUM_CLASSES)
        case "tuple":
            return Tuple()
        case "dropout":
            return nn.Dropout(0.5)
        case str():
            raise AssertionError(kind)
    return Fails(kind)


def takes(model: nn.Module, in_training: bool) -> bool:
    """Determined by a trial, independent of the code under test."""
    try:
        logits = model.train(in_training)(torch.zeros(1, 6))
    except (Exception, SystemExit):
        return False
    return isinstance(logits, torch.Tensor) and logits.shape == (1, NUM_CLASSES)


@given(st.lists(PARTS, max_size=4), st.booleans())
def test_property_a_model_takes_one_sample_or_the_reason_is_one_line(
    kinds: list[str | type[BaseException]], in_training: bool
) -> None:
    model = nn.Sequential(nn.Linear(6, NUM_CLASSES), *(part(kind) for kind in kinds))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    why = problem(model, vectors(), CPU, in_training=in_training)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert (why == "") is takes(model, in_training)
    assert "\n" not in why
    model.train(in_training)
    if why:
        with pytest.raises(BatchOfOne) as error:
            logits_of(model, torch.zeros(1, 6))
        assert (str(error.value), error.value.in_training) == (why, in_training)
    else:
        assert logits_of(model, torch.zeros(1, 6)).shape == (1, NUM_CLASSES)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no memory"), RuntimeError("unable to find an engine")])
def test_a_lack_of_memory_is_not_reported_as_a_batch_of_one(error: RuntimeError) -> None:
    class Large(nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            raise error

    with pytest.raises(type(error)) as raised:
        problem(Large(), vectors(), CPU, in_training=True)
    assert raised.value is error


def test_errors_of_larger_batches_are_unchanged() -> None:
    with pytest.raises(RuntimeError):
        logits_of(View(7), torch.zeros(2, 3))


def test_another_number_of_logits_for_one_sample() -> None:
    class Wide(nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(batch), NUM_CLASSES + (len(batch) == 1))

    assert problem(Wide(), vectors(), CPU, in_training=False).endswith(
        "returns (1, 4) for a batch of one sample, not (1, 3)"
    )

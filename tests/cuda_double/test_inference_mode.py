"""`watch` on the double, created and used inside and outside of torch's inference mode."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from loaderlab import watch
from loaderlab.device.clock import RING
from tests.cuda_double.double import DEVICE, Double


@pytest.mark.parametrize("created_inside", [True, False])
@pytest.mark.parametrize("loops_inside", [(False, False), (True, True), (True, False), (False, True)])
def test_a_watched_loop_may_be_in_inference_mode(
    double: Double, created_inside: bool, loops_inside: tuple[bool, ...]
) -> None:
    double.cost = lambda name: (1_000, 1_000_000 if name.startswith("full") else 0)
    with torch.inference_mode(created_inside):
        meter = watch(DEVICE, warmup_steps=0)
    with meter:
        for inside in loops_inside:
            with torch.inference_mode(inside):
                for _ in meter.batches(range(RING + 10)):  # each slot of the ring is written again
                    meter.step(num_samples=1, loss=torch.full((), 2.0, device=DEVICE))
    figures = meter.figures()
    assert figures["train/loss"] == 2.0
    assert len(meter._loop().steps) == 2 * (RING + 10)
    assert str(meter.verdict())


@pytest.fixture
def other_defaults() -> Iterator[None]:
    """A program may change torch's defaults for new tensors."""
    torch.set_default_dtype(torch.bfloat16)
    torch.set_default_device("meta")  # stands for cuda: no tensor of it can be pinned
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("other_defaults")
def test_other_defaults_for_new_tensors(double: Double) -> None:
    with watch(DEVICE, warmup_steps=0) as meter:
        for _ in meter.batches(range(20)):
            meter.step(num_samples=1, loss=torch.full((), 1 + 2**-12, dtype=torch.float32, device=DEVICE))
    torch.set_default_device(None)
    assert meter._loop().losses[-1] == 1 + 2**-12

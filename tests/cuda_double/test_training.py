"""`train()` on the double learns what a plain loop on the CPU learns, with the same batches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from loaderlab import metrics
from loaderlab.config import SgdOptimizer
from loaderlab.training import optimizers
from tests.cuda_double.patches import installed
from tests.cuda_double.scenario import BATCH, FEATURES, Loop, PlannedLoader, PlannedModel, Played, double_for, play
from tests.parts import model_step

STEPS, EVALUATED = 10, 7  # steps of an epoch, and of an evaluation


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The first batches of `PlannedLoader`."""
    return [(torch.full((BATCH, FEATURES), float(i % 7)), torch.full((BATCH,), i % 3)) for i in range(count)]


def reference(num_steps: list[int], accumulate: int) -> nn.Module:
    """The model of a plain loop: each update uses the mean loss of its batches; ``num_steps``: of each epoch."""
    torch.manual_seed(0)
    model = nn.Linear(FEATURES, 3)
    optimizer, _ = optimizers.build(SgdOptimizer(schedule="constant"), model, None)
    for count in num_steps:
        of_epoch = batches(count)
        for first in range(0, count, accumulate):
            group = of_epoch[first : first + accumulate]
            optimizer.zero_grad()
            losses = [F.cross_entropy(model(inputs), targets) for inputs, targets in group]
            torch.stack(losses).mean().backward()
            optimizer.step()
    return model


def played(loop: Loop) -> Played:
    with installed(double_for(loop)) as double:
        return play(loop, double)


@pytest.mark.parametrize(
    ("epochs", "stop_after", "accumulate", "num_steps"),
    [
        (2, None, 1, [STEPS, STEPS]),
        (2, None, 4, [STEPS, STEPS]),  # the last group of an epoch has two steps
        (2, None, 20, [STEPS, STEPS]),
        (1, 17, 4, [STEPS, 7]),  # and the last group of the run has three
    ],
)
@pytest.mark.parametrize("knows_length", [True, False])
def test_the_double_learns_the_same_as_a_plain_loop_on_the_cpu(
    epochs: int,
    stop_after: int | None,
    accumulate: int,
    num_steps: list[int],
    knows_length: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(PlannedLoader, "knows_length", knows_length)
    result = played(Loop(lambda _: 1.0, steps=STEPS, epochs=epochs, stop_after=stop_after, accumulate=accumulate))
    expected = list(reference(num_steps, accumulate).parameters())
    learned = list(model_step(result.parts).model.parameters())
    assert result.progress.step == sum(num_steps)
    assert result.progress.updates == sum(-(-count // accumulate) for count in num_steps)
    for ours, plain in zip(learned, expected, strict=True):
        torch.testing.assert_close(ours, plain)


def test_an_evaluation_uses_the_mode_and_the_samples_of_an_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[tuple[bool, bool]] = []
    forward = PlannedModel.forward

    def noted(self: PlannedModel, inputs: torch.Tensor) -> torch.Tensor:
        passes.append((self.training, torch.is_grad_enabled()))
        return forward(self, inputs)

    monkeypatch.setattr(PlannedModel, "forward", noted)
    result = played(Loop(lambda _: 1.0, steps=STEPS, epochs=2, evaluate=True))
    assert passes == 2 * ([(True, True)] * STEPS + [(False, False)] * EVALUATED)
    model = reference([STEPS, STEPS], 1)
    inputs, targets = (torch.cat(parts) for parts in zip(*batches(EVALUATED), strict=True))
    logits = model(inputs)
    assert result.progress.validation[metrics.VAL_LOSS] == pytest.approx(
        F.cross_entropy(logits, targets).item(), rel=1e-4
    )
    assert result.progress.validation[metrics.VAL_ACCURACY] == pytest.approx(
        (logits.argmax(1) == targets).float().mean().item()
    )


def test_an_epoch_ends_before_the_evaluation() -> None:
    result = played(Loop(lambda _: 1.0, steps=STEPS, epochs=2, evaluate=True))
    updates = [busy for busy in result.double.timeline.log if busy.work == "optimizer"]
    ends_ns = [updates[STEPS - 1].stop_ns, updates[-1].stop_ns]
    assert [stop_ns for _, stop_ns in result.meter.epochs_ns] == pytest.approx(ends_ns, abs=100)

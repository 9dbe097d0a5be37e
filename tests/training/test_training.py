"""The training loop gives the same weights as a textbook loop, for any loader."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from loaderlab import metrics
from loaderlab.config import AdamWOptimizer, OptimizerConfig, PrecisionConfig, SgdOptimizer, UserError
from loaderlab.device.base import Device
from loaderlab.device.cpu import Cpu
from loaderlab.device.cuda import Cuda
from loaderlab.loaders.contract import Batch, Loader
from loaderlab.meter.phases import StepMeter
from loaderlab.training import optimizers
from loaderlab.training.loop import Observers, Parts, evaluate, train
from loaderlab.training.precision import Precision
from loaderlab.training.step import ModelStep, Progress

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


class Listed(Loader):
    """Batches from a list, the same each epoch."""

    def __init__(self, batches: list[Batch], device: Device, known: bool = True) -> None:
        self._batches, self._device, self._known = batches, device, known
        self.epochs: list[int] = []

    @property
    def num_steps(self) -> int | None:
        return len(self._batches) if self._known else None

    def epoch(self, epoch: int) -> Iterator[Batch]:
        self.epochs.append(epoch)
        return iter(self._batches)

    def transfer(self, batch: Batch) -> Batch:
        return Batch(batch.inputs.to(self._device.torch_device), batch.targets.to(self._device.torch_device), batch.ids)

    def close(self) -> None:
        pass


class Claiming(Listed):
    """Claims a wrong number of batches."""

    knows_length = False

    def __init__(self, batches: list[Batch], device: Device, claim: int) -> None:
        super().__init__(batches, device)
        self.claim = claim

    @property
    def num_steps(self) -> int:
        return self.claim


def samples(count: int, size: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 5, generator=generator)
    targets = torch.randint(0, 3, (count,), generator=generator)
    ids = torch.arange(count)
    return [Batch(inputs[s : s + size], targets[s : s + size], ids[s : s + size]) for s in range(0, count, size)]


def run(
    batches: list[Batch],
    *,
    epochs: int | None = None,
    steps: int | None = None,
    accumulate: int = 1,
    precision: str = "fp32",
    config: OptimizerConfig | None = None,
    known: bool = True,
    claim: int | None = None,
    device: str = "cpu",
    enough_after: int | None = None,
) -> tuple[nn.Module, Progress, StepMeter]:
    """``enough_after``: ends when this many steps are done."""
    target = Cuda() if device == "cuda" else Cpu()
    torch.manual_seed(0)
    model = nn.Linear(5, 3).to(target.torch_device)
    per_epoch = -(-len(batches) // accumulate)
    updates = None if not known else per_epoch * (epochs or 100)
    optimizer, schedule = optimizers.build(config or SgdOptimizer(lr=0.1, schedule="constant"), model, updates)
    loader = Listed(batches, target, known) if claim is None else Claiming(batches, target, claim)
    parts = Parts(
        ModelStep(model, optimizer, schedule, Precision(PrecisionConfig(name=precision), target)),
        loader,
        loader,
        target,
    )
    meter, progress = StepMeter(target), Progress()
    train(
        parts,
        meter,
        progress,
        Observers(lambda *_: None, lambda *_: None),
        epochs=epochs,
        steps=steps,
        accumulate=accumulate,
        enough=None if enough_after is None else lambda: progress.step >= enough_after,
    )
    return model, progress, meter


def by_hand(batches: list[Batch], epochs: int) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(epochs):
        for batch in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(batch.inputs), batch.targets).backward()
            optimizer.step()
    return model


def same(left: nn.Module, right: nn.Module, tolerance: float = 1e-6) -> bool:
    pairs = zip(left.parameters(), right.parameters(), strict=True)
    return all(torch.allclose(a.cpu(), b.cpu(), atol=tolerance) for a, b in pairs)


@pytest.mark.parametrize("device", DEVICES)
def test_it_trains_like_a_handwritten_loop(device: str) -> None:
    model, progress, meter = run(samples(12, 4), epochs=3, device=device)
    assert same(model, by_hand(samples(12, 4), 3), 1e-5)
    assert (progress.epoch, progress.step, progress.updates) == (3, 9, 9)
    assert len(meter.steps) == 9
    assert set(progress.validation) == {metrics.VAL_LOSS, metrics.VAL_ACCURACY}
    assert all(math.isfinite(step.loss) for step in meter.steps)


def test_it_ends_when_it_is_enough() -> None:
    """In the middle of an epoch, after an update: no gradient of a half-finished update is lost."""
    _, progress, meter = run(samples(12, 2), accumulate=2, enough_after=7)
    assert (progress.epoch, progress.step, progress.updates) == (2, 8, 4)
    assert [step.epoch for step in meter.steps] == [0] * 6 + [1] * 2


@pytest.mark.parametrize("device", DEVICES)
def test_accumulated_steps_give_the_update_of_one_large_batch(device: str) -> None:
    accumulated, progress, _ = run(samples(12, 2), epochs=3, accumulate=2, device=device)
    assert same(accumulated, by_hand(samples(12, 4), 3), 1e-5)
    assert (progress.step, progress.updates) == (18, 9)


def test_the_last_group_of_an_epoch_may_be_smaller() -> None:
    accumulated, progress, _ = run(samples(10, 2), epochs=1, accumulate=2)
    assert progress.updates == 3
    assert same(accumulated, by_hand(samples(10, 4), 1))  # its last batch is the short one


def test_the_last_group_of_an_epoch_of_unknown_length() -> None:
    accumulated, progress, _ = run(samples(10, 2), epochs=2, accumulate=2, known=False)
    assert progress.updates == 6
    assert same(accumulated, by_hand(samples(10, 4), 2))


def test_an_epoch_of_unknown_length_that_ends_inside_the_last_group_of_a_run() -> None:
    # five steps per epoch: a group of four, a group of the fifth step, and the run's last step in the next epoch
    accumulated, progress, _ = run(samples(10, 2), steps=6, accumulate=4, known=False)
    assert (progress.step, progress.updates) == (6, 3)
    steps = samples(10, 2)
    four = Batch(torch.cat([b.inputs for b in steps[:4]]), torch.cat([b.targets for b in steps[:4]]), None)
    assert same(accumulated, by_hand([four, steps[4], steps[0]], 1))


@pytest.mark.parametrize("claim", [0, 1, 2, 3, 4, 5, 6, 8, 100])
def test_groups_of_steps_are_correct_for_any_claimed_length(claim: int) -> None:
    accumulated, progress, _ = run(samples(10, 2), epochs=2, accumulate=2, claim=claim)
    assert (progress.step, progress.updates) == (10, 6)
    assert same(accumulated, by_hand(samples(10, 4), 2))


def test_steps_end_in_the_middle_of_an_epoch() -> None:
    _, progress, meter = run(samples(12, 4), steps=5)
    assert (progress.step, progress.epoch, len(meter.steps)) == (5, 2, 5)
    _, progress, _ = run(samples(12, 2), steps=5, accumulate=3)
    assert progress.updates == 2


def test_a_loader_that_does_not_know_its_length() -> None:
    _, progress, _ = run(samples(12, 4), epochs=2, known=False)
    assert progress.step == 6


def test_an_empty_epoch_is_refused() -> None:
    with pytest.raises(UserError, match="there was no training batch"):
        run([], epochs=1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precisions_learn_too(precision: str, device: str) -> None:
    _, _, meter = run(samples(12, 4), epochs=20, precision=precision, device=device)
    assert meter.steps[-1].loss < meter.steps[0].loss


def test_evaluation_covers_all_samples_including_a_short_batch() -> None:
    batches = samples(10, 4)
    model, _, _ = run(batches, epochs=1)
    device = Cpu()
    loader = Listed(batches, device)
    optimizer, schedule = optimizers.build(SgdOptimizer(schedule="constant"), model, 1)
    step = ModelStep(model, optimizer, schedule, Precision(PrecisionConfig(name="fp32"), device))
    validation = evaluate(step, loader, device)
    inputs, targets = torch.cat([b.inputs for b in batches]), torch.cat([b.targets for b in batches])
    logits = model(inputs)
    assert validation[metrics.VAL_LOSS] == pytest.approx(F.cross_entropy(logits, targets).item(), abs=1e-6)
    assert validation[metrics.VAL_ACCURACY] == pytest.approx((logits.argmax(1) == targets).float().mean().item())
    assert model.training is False


def test_learning_rate_over_the_run() -> None:
    config = AdamWOptimizer(lr=2.0, warmup_steps=3, schedule="cosine")
    rates = [2.0 * optimizers.factor(config, 11)(update) for update in range(12)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[7] == pytest.approx(1.0)  # half-way down
    assert rates[11] == pytest.approx(0.0)
    linear = optimizers.factor(SgdOptimizer(schedule="linear"), 10)
    assert [linear(0), linear(5), linear(10)] == [1.0, 0.5, 0.0]
    assert optimizers.factor(SgdOptimizer(schedule="constant"), None)(99) == 1.0


def test_a_schedule_needs_an_end() -> None:
    with pytest.raises(UserError, match="steps=1000"):
        optimizers.factor(AdamWOptimizer(), None)
    with pytest.raises(UserError, match="optimizer.warmup_steps=10"):
        optimizers.factor(AdamWOptimizer(warmup_steps=10), 10)

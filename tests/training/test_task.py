"""The step and the evaluation of a task of one's own: what they return, and errors of one line for anything else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from loaderlab.config import CustomModel, UserError
from loaderlab.loaders.contract import Batch
from loaderlab.training.task import OwnTask
from tests import own_task

HERE = own_task.__name__


def task(step: str = "step", evaluate: str | None = None) -> OwnTask:
    own = None if evaluate is None else f"{HERE}:{evaluate}"
    return OwnTask(CustomModel(target=f"{HERE}:network", step=f"{HERE}:{step}", evaluate=own))


def batch(size: int = 4) -> Batch:
    content = own_task.collate([own_task.Boxes(24)[index] for index in range(size)])
    return Batch(content, None, None, counted=(size, size))


def test_a_loss_with_metrics() -> None:
    own, model = task(), own_task.Network().eval()
    loss = own.loss(model, batch())
    assert loss.shape == ()
    assert loss.requires_grad
    assert own.measured.keys() == {"task/root", "task/boxes"}
    assert own.measured["task/boxes"] == 7
    root = own.measured["task/root"]
    assert not root.requires_grad  # otherwise it would keep the graph
    assert root.item() == pytest.approx(loss.sqrt().item())


def test_a_loss_alone() -> None:
    own = task(step="loss_of")
    assert own.loss(own_task.Network(), batch()).shape == ()
    assert own.measured == {}


def test_a_batch_of_our_own_data_is_a_pair() -> None:
    received: list[Any] = []
    own = task(step="loss_of")
    own._step = lambda model, batch: received.append(batch) or torch.ones((), requires_grad=True)  # type: ignore[func-returns-value]
    inputs, targets = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    own.loss(own_task.Network(), Batch(inputs, targets, None))
    assert received[0][0] is inputs
    assert received[0][1] is targets


@torch.no_grad()
def test_an_evaluation_is_summed_over_samples() -> None:
    model = own_task.Network().eval()
    expected = own_task.loss_of(model, batch().inputs).item()
    sums = task(evaluate="evaluate").evaluated(model, batch())
    assert sums.keys() == {"val/loss", "val/boxes"}
    assert float(sums["val/loss"]) == pytest.approx(4 * expected)
    assert sums["val/boxes"] == 7
    assert {name: float(value) for name, value in task().evaluated(model, batch()).items()} == {
        "val/loss": pytest.approx(4 * expected)
    }


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("nothing", "returned a NoneType as the loss; a tensor of one number is needed"),
        ("one_per_sample", r"returned a tensor \(4,\) as the loss; .*loss.mean\(\)"),
        ("detached", "its loss has no graph"),
        ("failing", "failed for a batch of 4 samples: KeyError: 'masks'. HYDRA_FULL_ERROR=1 shows where"),
        ("vector_metric", r"the metric colours is a tensor \(3,\); one number is needed"),
    ],
)
def test_a_wrong_step_is_named(step: str, message: str) -> None:
    with pytest.raises(UserError, match=f"model.step={HERE}:{step}: .*{message}"):
        task(step=step).loss(own_task.Network(), batch())


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        ("nothing", "returned a NoneType as the metrics; a dict of numbers is needed"),
        ("failing", "failed for a batch of 4 samples: KeyError: 'masks'"),
        ("badly_named", "a metric is named 'AP@50'; only letters, digits"),
    ],
)
def test_a_wrong_evaluation_is_named(evaluate: str, message: str) -> None:
    with pytest.raises(UserError, match=f"model.evaluate={HERE}:{evaluate}: .*{message}"):
        task(evaluate=evaluate).evaluated(own_task.Network(), batch())


def test_a_step_with_other_arguments_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"it is called as no_batch\(model, batch\), but its arguments are \(model.*too many"
    ):
        task(step="no_batch")


def test_errors_that_are_not_the_users_pass_unchanged() -> None:
    own = task()

    def out_of_memory(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def dead_worker(*_: Any) -> Any:  # torch's signal handler may run inside any function
        raise RuntimeError("DataLoader worker (pid 17) is killed by signal: Killed. ")

    for function, kind in ((out_of_memory, torch.OutOfMemoryError), (dead_worker, RuntimeError)):
        own._step = function
        with pytest.raises(kind):
            own.loss(own_task.Network(), batch())

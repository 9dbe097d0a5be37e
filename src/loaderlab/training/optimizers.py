"""The optimizer and the learning rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from loaderlab.config import AdamWOptimizer, OptimizerConfig, SgdOptimizer, UserError, refuse

NumUpdates = Callable[[int], int | None]  # the number of updates in the whole run, as known after this many updates


def build(
    config: OptimizerConfig, model: nn.Module, num_updates: int | None, revised: NumUpdates | None = None
) -> tuple[Optimizer, LambdaLR]:
    """The optimizer and its schedule, which is stepped once per update.

    Args:
        config: sgd or adamw.
        model: its trainable parameters are updated.
        num_updates: of the whole run; None if an iterable dataset has no length.
        revised: the current estimate of the same number, called at each update. `set_rate` applies it between two updates.

    Raises:
        UserError: the schedule needs the number of updates, which is unknown, or the model has no trainable parameter.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise UserError("model: has no trainable parameter")
    optimizer: Optimizer
    match config:
        case SgdOptimizer():
            optimizer = SGD(
                parameters,
                config.lr,
                config.momentum,
                weight_decay=config.weight_decay,
                nesterov=config.nesterov,
            )
        case AdamWOptimizer():
            optimizer = AdamW(
                parameters, config.lr, (config.betas[0], config.betas[1]), weight_decay=config.weight_decay
            )
        case _:
            raise AssertionError(config)
    return optimizer, LambdaLR(optimizer, factor(config, num_updates, revised))


def factor(
    config: OptimizerConfig, num_updates: int | None, revised: NumUpdates | None = None
) -> Callable[[int], float]:
    """A function from an update (counted from 0) to the factor on ``optimizer.lr``: linear warm-up, then the schedule to 0.

    Raises:
        UserError: see `build`.
    """
    warmup = config.warmup_steps
    if config.schedule != "constant" and num_updates is None:
        raise refuse(
            "optimizer.schedule",
            config.schedule,
            "needs the number of steps, but this iterable dataset has no length",
            "steps=1000, or optimizer.schedule=constant",
            is_example=False,
        )
    if num_updates is not None and warmup >= num_updates > 0:
        allowed = f"the whole run has only {num_updates} updates"
        raise refuse("optimizer.warmup_steps", warmup, allowed, f"optimizer.warmup_steps={num_updates // 10}")

    def at(update: int) -> float:
        if update < warmup:
            return (update + 1) / (warmup + 1)
        total = num_updates if revised is None else revised(update)
        if total is None or config.schedule == "constant":
            return 1.0
        done = min(1.0, (update - warmup) / max(1, total - warmup))
        return 0.5 * (1 + math.cos(math.pi * done)) if config.schedule == "cosine" else 1 - done

    return at


def set_rate(optimizer: Optimizer, schedule: LambdaLR) -> None:
    """Recomputes the learning rate of the next update, after the estimated number of updates has changed."""
    for group, base, share in zip(optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["lr"] = base * share(schedule.last_epoch)


def learning_rate(optimizer: Optimizer) -> float:
    rate = optimizer.param_groups[0]["lr"]
    return float(rate.item() if isinstance(rate, torch.Tensor) else rate)

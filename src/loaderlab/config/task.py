"""Whether a run trains a task of the user's own, and checks for settings that do not fit it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loaderlab.config.base import refuse
from loaderlab.config.data import CustomData
from loaderlab.config.model import CustomModel

if TYPE_CHECKING:
    from loaderlab.config.train import TrainConfig

STEP = "model=custom model.target=package.module:function model.step=package.module:function"


def has_own_step(config: TrainConfig) -> bool:
    """Whether the user's own function is the step. An emulated step computes nothing."""
    return (
        isinstance(config.model, CustomModel) and config.model.step is not None and not config.accelerator.is_emulated
    )


def has_whole_batches(config: TrainConfig) -> bool:
    """Whether a batch is what ``data.collate`` returns for the user's items, instead of inputs and class indices."""
    data = config.data
    return isinstance(data, CustomData) and (has_own_step(config) or data.collate is not None)


def check_task(config: TrainConfig) -> None:
    """Checks the settings of the user's own task against the others.

    Raises:
        UserError: a setting would have no effect, or the step is missing.
    """
    model, data = config.model, config.data
    if isinstance(model, CustomModel) and model.evaluate is not None and model.step is None:
        raise refuse(
            "model.evaluate",
            model.evaluate,
            "needs a step of your own",
            f"model.step={model.evaluate.partition(':')[0]}:step",
        )
    if not isinstance(data, CustomData):
        return
    if not has_whole_batches(config):
        if data.count is not None:
            needed = "data.collate=package.module:function" if config.accelerator.is_emulated else STEP
            raise refuse(
                "data.count", data.count, "counts the samples of a batch for model.step or of data.collate", needed
            )
        return
    if data.collate is not None and not (has_own_step(config) or config.accelerator.is_emulated):
        raise refuse("data.collate", data.collate, "makes batches for a step of your own, and there is none", STEP)
    for name in ("input_key", "target_key", "num_classes"):
        value = getattr(data, name)
        if value is not None:
            why = "has no effect, because data.collate gets the whole items"
            raise refuse(f"data.{name}", value, why, f"data.{name}=null", is_example=False)

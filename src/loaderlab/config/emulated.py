"""The settings that an emulated run does not use, and the messages if one is typed. An emulated step computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from loaderlab.config.base import WrongUsage, refuse

if TYPE_CHECKING:
    from loaderlab.config.train import TrainConfig

UNUSED = ("model", "precision", "optimizer", "evaluate", "checkpoint", "deterministic")  # groups and settings
OFF = ("false", "null")  # as typed; an unused setting may be switched off


def is_unused(name: str) -> bool:
    """Whether a setting, dotted, has no effect in an emulated run."""
    return name.partition(".")[0] in UNUSED


def check_emulated(config: TrainConfig) -> None:
    """Checks the settings of an emulated run against each other.

    Raises:
        UserError: a setting needs a real step or a real device.
    """
    accelerator = f"accelerator={config.accelerator.name}"
    config.accelerator.check_batch(config.batch_size)
    if config.device.startswith("cuda"):
        raise refuse("device", config.device, f"{accelerator} is emulated and uses no GPU", "device=auto")
    if config.measure.profile:
        raise refuse(
            "measure.profile",
            "true",
            f"{accelerator} is emulated, and its step runs no operation that could be recorded",
            "measure.profile=false",
        )
    if config.measure.sync:
        raise refuse(
            "measure.sync",
            "true",
            f"{accelerator} is emulated, and the times of its events are exact, so there is nothing to validate",
            "measure.sync=false",
        )
    if config.study == "loader_precision":
        raise refuse(
            "study",
            config.study,
            f"varies the precision, which has no effect with {accelerator}: an emulated step computes nothing",
            f"study=workers {accelerator}, or study=loader_precision accelerator=none",
        )
    if why := config.loader.needs_gpu(emulated=True):
        raise WrongUsage(why)


def refuse_typed(config: TrainConfig, overrides: Sequence[str]) -> None:
    """Rejects typed settings that would have no effect. Defaults, also those of a study or a rung, are not rejected.

    Args:
        overrides: those of the run or of the job, as typed.

    Raises:
        WrongUsage: a setting of a real step with an emulated accelerator, or a setting of an accelerator without one.
    """
    accelerator = config.accelerator
    for text in overrides:
        key, _, value = text.partition("=")
        key = key.lstrip("+~")
        if not accelerator.is_emulated and key.startswith("accelerator."):
            raise refuse(key, value, "has no effect with accelerator=none", f"accelerator=custom {key}={value}")
        if accelerator.is_emulated and is_unused(key) and value.lower() not in OFF:
            raise refuse(
                key,
                value,
                f"has no effect with accelerator={accelerator.name}: an emulated step computes nothing",
                f"accelerator=none {key}={value}, or leave out {key}",
                is_example=False,
            )


def refuse_resume(config: TrainConfig) -> None:
    """Rejects the continuation of a single run as an emulated one.

    Raises:
        WrongUsage: an emulated run has no weights, so it cannot continue from a checkpoint.
    """
    if config.accelerator.is_emulated and config.resume is not None:
        raise refuse(
            "resume",
            config.resume,
            f"accelerator={config.accelerator.name} is emulated: it has no weights, so no checkpoint can be continued",
            f"accelerator=none resume={config.resume}, or leave out resume",
            is_example=False,
        )

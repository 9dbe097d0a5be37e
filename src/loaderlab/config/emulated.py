"""The settings that an emulated run does not use, and the messages if one is typed. An emulated step computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from loaderlab.config.accelerator import NONE
from loaderlab.config.base import UserError, WrongUsage, refuse
from loaderlab.config.loader import ReplayLoader

if TYPE_CHECKING:
    from loaderlab.config.train import TrainConfig

UNUSED = ("model", "precision", "optimizer", "evaluate", "checkpoint", "deterministic")  # groups and settings
LOCATIONS = ("checkpoint.dir",)  # of an unused group; they may be typed, since they change no result
BF16_RUNG = "bf16"
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
        WrongUsage: a setting of a real step with an emulated accelerator, or a setting of an accelerator without one, or the
            name ``none`` for an accelerator.
    """
    accelerator = config.accelerator
    for text in overrides:
        key, _, value = text.partition("=")
        key = key.lstrip("+~")
        if key == "accelerator.name" and value == NONE:
            raise refuse(
                key, value, "is the choice without an accelerator, not a name", "accelerator=none", is_example=False
            )
        if not accelerator.is_emulated and key.startswith("accelerator."):
            raise refuse(key, value, "has no effect with accelerator=none", f"accelerator=custom {key}={value}")
        if accelerator.is_emulated and is_unused(key) and key not in LOCATIONS and value.lower() not in OFF:
            raise _no_effect(accelerator.name, key, value)


def _no_effect(accelerator: str, key: str, value: str) -> UserError:
    return refuse(
        key,
        value,
        f"has no effect with accelerator={accelerator}: an emulated step computes nothing",
        f"accelerator=none {key}={value}, or leave out {key}",
        is_example=False,
    )


def refuse_single(config: TrainConfig) -> None:
    """Rejects settings that only a sweep can use.

    Raises:
        WrongUsage: ``sweep.on``; the gate of a run without a loader; the continuation of a single run as an emulated one, which has no
            weights; the rung ``bf16`` with an emulated accelerator, which is not applicable in a ladder.
    """
    if config.sweep.on != type(config.sweep).on:  # the default
        raise refuse(
            "sweep.on",
            config.sweep.on,
            "has no effect on a single run, only with -m",
            "launch=slurm, or -m",
            is_example=False,
        )
    limit = config.fail_if.utilization_below
    if limit is not None and isinstance(config.loader, ReplayLoader):
        raise refuse(
            "fail_if.utilization_below",
            f"{limit:g}",
            "loader=replay loads nothing, so there is nothing to judge",
            "loader=native",
        )
    if config.accelerator.is_emulated and config.rung == BF16_RUNG:
        raise _no_effect(config.accelerator.name, "rung", BF16_RUNG)
    if config.accelerator.is_emulated and config.resume is not None:
        raise refuse(
            "resume",
            config.resume,
            f"accelerator={config.accelerator.name} is emulated: it has no weights, so no checkpoint can be continued",
            f"accelerator=none resume={config.resume}, or leave out resume",
            is_example=False,
        )

"""Saves and loads checkpoints, and checks which settings may differ between a run and its continuation."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from loaderlab.config import TrainConfig, UserError, refuse
from loaderlab.loaders.contract import EpochPlan
from loaderlab.system.causes import reason
from loaderlab.system.files import atomic_file
from loaderlab.training.step import ModelStep, Progress

NAME = "checkpoint.pt"
#: settings that may differ between a run and its continuation: length, records, loading of samples, and the machine
FREE = (
    "epochs",
    "steps",
    "resume",
    "evaluate",
    "device",
    "torch_threads",
    "tracking.",
    "checkpoint.",
    "measure.",
    "loader.",
    "launch.",
    "model.compile",
)


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint.

    Attributes:
        world_size: the number of ranks that wrote it.
        batch_size: of each of them.
    """

    path: Path
    state: dict[str, Any]
    progress: Progress
    run_id: str
    world_size: int
    batch_size: int


def save(
    path: Path, step: ModelStep, progress: Progress, config: TrainConfig, run_id: str, world_size: int = 1
) -> None:
    """Replaces the checkpoint. An interrupted write leaves the old one unchanged.

    Raises:
        UserError: it cannot be written.
    """
    content = {
        "state": step.state(),
        "trained": {"epoch": progress.epoch, "step": progress.step, "updates": progress.updates},
        "config": {name: _plain(value) for name, value in config.recorded()},
        "run_id": run_id,
        "world_size": world_size,
        "written_ns": time.time_ns(),  # the modification time changes when the file is copied
    }
    try:
        with atomic_file(path) as partial:
            torch.save(content, partial)
    except (OSError, RuntimeError) as error:
        raise refuse(
            "checkpoint.dir",
            config.checkpoint.dir,
            f"the checkpoint cannot be written: {reason(error)}",
            "checkpoint.dir=/path, or checkpoint.every_minutes=null",
        ) from error


def load(config: TrainConfig, world_size: int = 1) -> Checkpoint:
    """The checkpoint that ``resume`` names, after a comparison with the configuration.

    The number of ranks may differ if the global batch is the same: the steps of an epoch are then the same too.

    Raises:
        UserError: there is none, it cannot be read, or its run had another configuration.
    """
    path = _find(str(config.resume), Path(config.checkpoint.dir))
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state, done, saved, run_id = (
            content["state"],
            content["trained"],
            content["config"],
            content["run_id"],
        )
    except Exception as error:  # torch raises various types for a file that is not a checkpoint
        raise UserError(f"resume={config.resume}: {path} is not a checkpoint of loaderlab: {reason(error)}") from error
    now = {name: _plain(value) for name, value in config.recorded()}
    before, batch_size = content.get("world_size", 1), saved["batch_size"]
    if saved["batch_size"] * before == config.batch_size * world_size:
        saved["batch_size"] = now["batch_size"]
    elif before != world_size:
        total = saved["batch_size"] * before
        smaller = f"batch_size={total // world_size}, or " if total % world_size == 0 else ""
        raise refuse(
            "resume",
            config.resume,
            f"{path} was written by {before} ranks with a global batch of {total}, and now {world_size} ranks would have "
            f"{config.batch_size * world_size}, so an epoch would have other steps",
            f"{smaller}the same number of ranks",
            is_example=False,
        )
    differing = [
        f"{name} (was {saved.get(name)}, is {now.get(name)})"
        for name in sorted(saved.keys() | now.keys())
        if saved.get(name) != now.get(name) and not name.startswith(FREE)
    ]
    if differing:
        raise UserError(
            f"resume={config.resume}: this config differs from that of the checkpoint {path}: {'; '.join(differing)}"
        )
    goal = config.steps if config.steps is not None else config.num_epochs
    reached = done["step"] if config.steps is not None else done["epoch"]
    assert goal is not None
    if reached >= goal:
        unit = "steps" if config.steps is not None else "epochs"
        raise refuse("resume", config.resume, f"{path} already has {reached} {unit}", f"{unit}={2 * reached}")
    return Checkpoint(path, state, Progress(**done), run_id, before, batch_size)


def check_epoch(saved: Checkpoint, plan: EpochPlan, config: TrainConfig) -> None:
    """Checks that an epoch has as many steps as before.

    With the same global batch this is so, except for batches of one sample: they cannot be divided, so that ranks with a sample more than
    others lose it.

    Raises:
        UserError: it has other steps.
    """
    before = replace(plan, batch_size=saved.batch_size, world_size=saved.world_size, rank=0)
    if before.num_steps == plan.num_steps:
        return
    raise refuse(
        "resume",
        config.resume,
        f"{saved.path} was written by {saved.world_size} ranks with {before.num_steps} steps in an epoch, and now {plan.world_size} ranks "
        f"would have {plan.num_steps}, since {plan.num_samples} samples cannot be divided into equal batches of one sample",
        f"the same number of ranks, with batch_size={saved.batch_size}",
        is_example=False,
    )


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, float, str, bool, type(None))) else str(value)


def _find(resume: str, folder: Path) -> Path:
    if resume == "latest":
        return _latest(folder)
    path = Path(resume)
    path = path / NAME if path.is_dir() else path
    if not path.is_file():
        raise refuse(
            "resume", resume, "no such checkpoint", f"resume=latest, or the path of a {NAME}", is_example=False
        )
    return path


def _latest(folder: Path) -> Path:
    """The checkpoint that was written last, by the time recorded in each checkpoint.

    Modification times are not used, because cp, rsync and tar change them. Files with the same time are copies.

    Raises:
        UserError: there is none, one cannot be read, or several are from earlier versions that did not record the time.
    """
    paths = sorted(folder.glob(f"*/{NAME}"))
    if not paths:
        raise UserError(
            f"resume=latest: no checkpoint under checkpoint.dir={folder}. Runs of a few minutes leave none: "
            "checkpoint.every_minutes=0 writes one each epoch, checkpoint.keep=true keeps the last"
        )
    if len(paths) == 1:
        return paths[0]
    orders = {path: _order(path) for path in paths}
    newest = max(orders.values())
    undated = [path for path, (written_ns, _) in orders.items() if not written_ns]
    if newest[0] == 0:
        raise refuse(
            "resume",
            "latest",
            f"{len(undated)} checkpoints are from an earlier version and do not record when they were written",
            f"resume={undated[0]}",
        )
    return next(path for path in paths if orders[path] == newest)


def _order(path: Path) -> tuple[int, int]:
    """The time in ns when a checkpoint was written (0 if not recorded), and its number of steps.

    Raises:
        UserError: it cannot be read, so it is unknown whether it is the latest.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # reads no weights
        return int(content.get("written_ns", 0)), int(content["trained"]["step"])
    except Exception as error:  # torch raises various types for a file that is not a checkpoint
        allowed = f"{path} cannot be read, so the latest checkpoint is unknown: {reason(error)}"
        raise refuse(
            "resume", "latest", allowed, f"resume=/path/{NAME}, or remove that file", is_example=False
        ) from error

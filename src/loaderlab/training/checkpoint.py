"""Saves and loads checkpoints, and checks which settings may differ between a run and its continuation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from loaderlab.config import TrainConfig, UserError, flatten, refuse
from loaderlab.system.causes import reason
from loaderlab.system.files import atomic_file
from loaderlab.training.loop import Parts, Progress

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
    "model.compile",
)


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint."""

    path: Path
    state: dict[str, Any]
    progress: Progress
    run_id: str


def save(path: Path, parts: Parts, progress: Progress, config: TrainConfig, run_id: str) -> None:
    """Replaces the checkpoint. An interrupted write leaves the old one unchanged.

    Raises:
        UserError: it cannot be written.
    """
    content = {
        "state": parts.state(),
        "trained": {"epoch": progress.epoch, "step": progress.step, "updates": progress.updates},
        "config": {name: _plain(value) for name, value in flatten(config)},
        "run_id": run_id,
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


def load(config: TrainConfig) -> Checkpoint:
    """The checkpoint that ``resume`` names, after a comparison with the configuration.

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
    now = {name: _plain(value) for name, value in flatten(config)}
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
    return Checkpoint(path, state, Progress(**done), run_id)


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, float, str, bool, type(None))) else str(value)


def _find(resume: str, folder: Path) -> Path:
    if resume == "latest":
        found = sorted(folder.glob(f"*/{NAME}"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise UserError(
                f"resume=latest: no checkpoint under checkpoint.dir={folder}. Runs of a few minutes leave none: "
                "checkpoint.every_minutes=0 writes one each epoch, checkpoint.keep=true keeps the last"
            )
        return found[-1]
    path = Path(resume)
    path = path / NAME if path.is_dir() else path
    if not path.is_file():
        raise refuse(
            "resume", resume, "no such checkpoint", f"resume=latest, or the path of a {NAME}", is_example=False
        )
    return path

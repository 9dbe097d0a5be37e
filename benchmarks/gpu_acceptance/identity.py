"""Which machine measured a part: results of two machines are not mixed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loaderlab.config import UserError

Machine = dict[str, str]
UNKNOWN = "a machine that was not recorded"


def identity(description: Mapping[str, Any]) -> Machine:
    """What results depend on, from the content of `describe`: a borrowed host is another machine each time, so no uuid or name.

    The processor is included because a loader's rate depends on it as much as on the GPU.
    """
    cuda = description.get("cuda_of_torch")
    return {
        "device": str(description["device"]),
        "driver": str(description.get("driver") or "none"),
        "torch": f"{description['versions'].get('torch')}{f' for CUDA {cuda}' if cuda else ''}",
        "processor": str(description["processor"]),
        "cores": str(description["cores_available"]),
    }


def as_text(machine: Machine) -> str:
    """The machine in words."""
    if not machine:
        return UNKNOWN
    return (
        f"{machine['device']} (driver {machine['driver']}, torch {machine['torch']}, {machine['processor']}, "
        f"{machine['cores']} cores)"
    )


def check(folder: Path, machine: Machine) -> None:
    """Checks that all parts in a folder were measured on this machine.

    Raises:
        UserError: a part was measured on another one, or its machine was not recorded.
    """
    for file in sorted(folder.glob("*/part.json")):
        for other in (
            [] if file.parent.name == "environment" else machines(file)
        ):  # that one is measured again each time
            if other != machine:
                differing = ", ".join(name for name in machine if other.get(name) != machine[name])
                raise UserError(
                    f"{folder} contains results of another machine: {file.parent.name} was measured on {as_text(other)}, but "
                    f"this is {as_text(machine)}. They differ in: {differing}. Results of two machines are not mixed. "
                    f"Type: --folder {folder}_{_slug(machine, other)}"
                )


def machines(file: Path) -> list[Machine]:
    """The machine of each run in a ``part.json``; none if the file is damaged, which `running.read` reports."""
    try:
        turns = json.loads(file.read_text(encoding="utf-8"))["turns"]
    except ValueError:
        return []
    return [turn.get("machine", {}) for turn in turns]


def _slug(machine: Machine, other: Machine) -> str:
    """A name of the machine for a folder: its device, or what differs if that is the same."""
    name = next((key for key in machine if machine[key] != other.get(key)), "device")
    text = machine["device"] if name == "device" or not other else f"{name}-{machine[name]}"
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")

"""What the tuner and the process of a script's trial send each other, as files of JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from loaderlab.attach.torch_terms import LEAST_WARMUP
from loaderlab.system.files import atomic_file, write_text
from loaderlab.tuning.trial import LEAST_STEPS, Measured

LEAST_NEEDED = LEAST_WARMUP + LEAST_STEPS + 1  # optimizer steps of a trial without workers


@dataclass(frozen=True)
class LoaderPlace:
    """Where in the program a loader is created: see `loaderlab.attach.call_stacks.call_stack`."""

    stack: tuple[str, ...]
    offsets: tuple[int, ...]


@dataclass(frozen=True)
class Order:
    """What a trial of a script shall do.

    Attributes:
        program: its path or the name of the module; is_module: as with ``python -m``.
        result: the file to write.
        seconds: length of the measured window.
        max_steps: optimizer steps after which it is stopped at the latest; None: no limit.
        place, settings: the arguments of the DataLoader that is created there; None: no change.
        linked_files, linked_folders: of the scratch copy.
        starter: pid of the process that started the trial.
    """

    program: str
    is_module: bool
    arguments: tuple[str, ...]
    result: str
    seconds: float
    starter: int
    max_steps: int | None = None
    place: LoaderPlace | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    linked_files: tuple[str, ...] = ()
    linked_folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a trial of a script measured.

    Attributes:
        problem: why there is no result; empty if there is.
        measured: the result.
        place, made_at: where the training loader is created, for the next trials and for people.
        num_workers, prefetch_factor, pin_memory, persistent_workers: its settings.
        batch_size: samples of an optimizer step; 0 if unknown: the rate is in optimizer steps then.
        batches_per_step: batches of the loader in an optimizer step.
        epoch_steps: optimizer steps of an epoch; None if the loader has no length.
        asynchronous: the step runs on a GPU.
        batch_bytes: size of a batch of the loader; None if unknown.
        repeats: each of the loader's workers delivers all of the data.
    """

    problem: str = ""
    measured: Measured | None = None
    place: LoaderPlace | None = None
    made_at: str = ""
    num_workers: int = 0
    prefetch_factor: int | None = None
    pin_memory: bool = False
    persistent_workers: bool = False
    batch_size: int = 0
    batches_per_step: int = 1
    epoch_steps: int | None = None
    asynchronous: bool = False
    batch_bytes: int | None = None
    repeats: bool = False


def write(path: Path, content: Order | Outcome) -> None:
    """Writes an order or an outcome; the file is complete or absent."""
    with atomic_file(path) as partial:
        write_text(partial, json.dumps(asdict(content)))


def read_order(path: Path) -> Order:
    """The order in a file."""
    values = json.loads(path.read_text(encoding="utf-8"))
    for name in ("arguments", "linked_files", "linked_folders"):
        values[name] = tuple(values[name])
    return Order(**{**values, "place": _place(values["place"])})


def read_outcome(path: Path) -> Outcome:
    """The outcome in a file.

    Raises:
        OSError: there is none.
    """
    values = json.loads(path.read_text(encoding="utf-8"))
    measured = values["measured"]
    if measured is not None:
        interval = measured["starved_interval"]
        measured = Measured(**{**measured, "starved_interval": None if interval is None else tuple(interval)})
    return Outcome(**{**values, "place": _place(values["place"]), "measured": measured})


def _place(values: Mapping[str, Any] | None) -> LoaderPlace | None:
    return None if values is None else LoaderPlace(tuple(values["stack"]), tuple(values["offsets"]))


def is_enough(num_steps: int, warmup: int, num_workers: int, window_s: float, order: Order) -> bool:
    """Whether a script can be stopped.

    Args:
        num_steps: of the optimizer so far.
        warmup: steps that are not measured.
        num_workers: of its loader; as many steps at the start of an epoch are not measured either.
        window_s: seconds since the warm-up ended.
    """
    if order.max_steps is not None and num_steps >= order.max_steps:
        return True
    return num_steps >= needed_steps(warmup, num_workers) and window_s >= order.seconds


def needed_steps(warmup: int, num_workers: int) -> int:
    """The optimizer steps from which enough of them are measured; see `is_enough`."""
    return warmup + max(1, num_workers) + LEAST_STEPS + 1

"""What is known of a loader object: its settings, its data, and where it was created. Does not import torch."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from loaderlab.attach.call_stacks import user_lines
from loaderlab.attach.events import LoaderFacts
from loaderlab.system.file_systems import file_system_of

PATHS = ("root", "path", "folder", "data_dir", "directory")  # attributes with which datasets name their folder


def facts_of(loader: Any, number: int, stack: tuple[str, ...] = (), offsets: tuple[int, ...] = ()) -> LoaderFacts:
    """The facts of a torch DataLoader or a DALI iterator.

    Args:
        number: of the loader.
        stack, offsets: where it was created, see `loaderlab.attach.call_stacks.call_stack`; empty if that is not known.
    """
    sampler, dataset = getattr(loader, "batch_sampler", None), getattr(loader, "dataset", None)
    return LoaderFacts(
        number=number,
        kind="dali" if _is_dali(loader) else "torch",
        title=type(loader).__name__,
        stack=stack,
        offsets=offsets,
        made_at=user_lines(stack),
        num_workers=whole(getattr(loader, "num_workers", 0)),
        prefetch_factor=whole(getattr(loader, "prefetch_factor", None)) or None,
        pin_memory=bool(getattr(loader, "pin_memory", False)),
        persistent_workers=bool(getattr(loader, "persistent_workers", False)),
        batch_size=whole(getattr(loader, "batch_size", 0)) or whole(getattr(sampler, "batch_size", 0)),
        num_samples=length(dataset),
        num_batches=num_batches(loader),
        file_system=_file_system(dataset),
    )


def num_batches(loader: Any) -> int:
    """The number of batches in an epoch; 0 if it is not known. The length of a DataLoader over a stream is not asked for: torch
    compares it with what the stream delivers, and warns."""
    dataset = getattr(loader, "dataset", None)
    return length(loader) if hasattr(dataset, "__getitem__") and not _is_stream(dataset) else 0


def _is_stream(dataset: Any) -> bool:
    """Torch's IterableDataset inherits ``__getitem__``; other datasets may have both methods."""
    return any(
        cls.__name__ == "IterableDataset" and cls.__module__.startswith("torch.") for cls in type(dataset).__mro__
    )


def whole(value: Any) -> int:
    """A whole number; 0 for anything else."""
    return int(value) if isinstance(value, int) else 0


def length(sized: Any) -> int:
    """Its length; 0 if it has none."""
    with suppress(Exception):  # no length, or a dataset or a sampler of the user's that fails
        return len(sized)
    return 0


def _file_system(dataset: Any) -> str:
    for name in PATHS:
        with suppress(Exception):  # an attribute of the user's
            path = getattr(dataset, name, None)
            if path is not None and (file_system := file_system_of(path)):
                return file_system
    return ""


def _is_dali(loader: Any) -> bool:
    return any(cls.__module__.startswith("nvidia.dali.") for cls in type(loader).__mro__)

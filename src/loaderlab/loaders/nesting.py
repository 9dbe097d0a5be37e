"""The values in a batch of any nesting: dicts, lists, tuples, named tuples and dataclasses, also of one's own subclasses."""

from __future__ import annotations

import copy
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch


def moves_itself(value: Any) -> bool:
    """Whether a value has a method ``to`` of its own, as tensors, packed sequences and the batches of some libraries do.

    A dict with such a method that cannot pin itself, such as Hugging Face's BatchEncoding, does not count: its values are packed, pinned and
    copied like those of any other dict.
    """
    if not callable(getattr(value, "to", None)) or isinstance(value, type):
        return False
    return not isinstance(value, dict | UserDict) or callable(getattr(value, "pin_memory", None))


def parts(value: Any) -> dict[Any, Any] | None:
    """The values directly inside a container, by key, index or name; None for any other value."""
    if moves_itself(value) or isinstance(value, torch.Size):
        return None
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    if is_dataclass(value) and not isinstance(value, type):
        return {entry.name: getattr(value, entry.name) for entry in fields(value) if hasattr(value, entry.name)}
    return None


def leaves(value: Any) -> Iterator[Any]:
    """The values that are no containers, in order."""
    inside = parts(value)
    if inside is None:
        yield value
        return
    for part in inside.values():
        yield from leaves(part)


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """A copy of the containers, with ``change(leaf)`` in the place of each leaf. The types of the containers are kept."""
    inside = parts(value)
    if inside is None:
        return change(value)
    changed = {key: mapped(part, change) for key, part in inside.items()}
    if type(value) is dict:
        return changed
    if type(value) is list:
        return [*changed.values()]
    if isinstance(value, tuple):
        return _same_tuple(value, tuple(changed.values()))
    if isinstance(value, Mapping) and not isinstance(value, MutableMapping):
        return changed
    clone = copy.copy(value)
    for key, part in changed.items():
        if isinstance(value, list | Mapping):
            clone[key] = part
        else:
            object.__setattr__(clone, key, part)  # the dataclass may be frozen
    return clone


def _same_tuple(value: tuple[Any, ...], changed: tuple[Any, ...]) -> Any:
    """A tuple of the same type with other values."""
    if hasattr(value, "n_sequence_fields"):  # a result of torch's operators, such as that of `torch.max`
        return type(value)(changed)
    clone = tuple.__new__(type(value), changed)  # not by the type's own constructor, which may have other arguments
    if hasattr(value, "__dict__"):
        vars(clone).update(vars(value))
    return clone


def tensors(value: Any) -> list[torch.Tensor]:
    """The tensors among the leaves."""
    return [leaf for leaf in leaves(value) if isinstance(leaf, torch.Tensor)]

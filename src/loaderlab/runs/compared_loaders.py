"""The loaders of a sweep that are compared with each other, and are checked for parity first. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loaderlab.config import ReplayLoader, TrainConfig, flatten


@dataclass(frozen=True)
class ComparedLoader:
    """A loader of a sweep in which other loaders load the same samples.

    Attributes:
        key: see `loader_key`.
        name: what tells it from the others of the sweep, as typed.
        config: of one of the jobs that it serves.
    """

    key: str
    name: str
    config: TrainConfig


def loader_key(config: TrainConfig) -> str:
    """Tells from every other what a job's loader is, and what it is to deliver."""
    parts = (config.loader, config.data, config.batch_size, config.drop_last, config.device)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def compared_loaders(configs: Iterable[TrainConfig]) -> list[ComparedLoader]:
    """The loaders of a sweep where there are several for the same samples; without ceilings, which load nothing."""
    known = {
        loader_key(config): config for config in reversed(list(configs)) if not isinstance(config.loader, ReplayLoader)
    }
    compared = {
        key: config
        for key, config in reversed(known.items())
        if any(other.data == config.data and other.loader != config.loader for other in known.values())
    }
    names = _telling_apart(list(compared.values()))
    return [ComparedLoader(key, name, config) for (key, config), name in zip(compared.items(), names, strict=True)]


def _telling_apart(configs: Sequence[TrainConfig]) -> list[str]:
    """Of each the settings of loader, data and batch that have several values among those that have them."""
    groups = ("loader.", "data.", "batch_size", "drop_last", "device")
    settings = [{name: value for name, value in flatten(config) if name.startswith(groups)} for config in configs]
    values: dict[str, set[str]] = {}
    for own in settings:
        for name, value in own.items():
            values.setdefault(name, set()).add(str(value))
    return [
        " ".join(f"{name.removesuffix('.name')}={value}" for name, value in own.items() if len(values[name]) > 1)
        for own in settings
    ]

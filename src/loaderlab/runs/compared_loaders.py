"""The loaders of a sweep that are compared with each other and are therefore checked for parity first. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loaderlab.config import ReplayLoader, TrainConfig, flatten


@dataclass(frozen=True)
class ComparedLoader:
    """A loader of a sweep with other loaders of the same samples.

    Attributes:
        key: see `loader_key`.
        name: the settings that distinguish it from the sweep's other loaders, as typed.
        config: the configuration of one of its jobs.
    """

    key: str
    name: str
    config: TrainConfig


def loader_key(config: TrainConfig) -> str:
    """Identifies a job's loader and the batches that it delivers."""
    parts = (config.loader, config.data, config.batch_size, config.drop_last, config.device)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def compared_loaders(configs: Iterable[TrainConfig]) -> list[ComparedLoader]:
    """The loaders of a sweep that load the same samples as another one; without ceilings, since they load nothing."""
    configs_by_key = {
        loader_key(config): config for config in reversed(list(configs)) if not isinstance(config.loader, ReplayLoader)
    }
    compared = {
        key: config
        for key, config in reversed(configs_by_key.items())
        if any(other.data == config.data and other.loader != config.loader for other in configs_by_key.values())
    }
    names = _distinguishing_settings(list(compared.values()))
    return [ComparedLoader(key, name, config) for (key, config), name in zip(compared.items(), names, strict=True)]


def _distinguishing_settings(configs: Sequence[TrainConfig]) -> list[str]:
    """The settings of loader, data and batch of each configuration that have different values in others."""
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

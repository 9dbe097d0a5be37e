"""Error messages about one setting, made from a composed configuration."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from loaderlab.cli.schemas import CONF, SCHEMAS
from loaderlab.cli.setting_texts import needed, no_such


def no_such_setting(key: str, cfg: DictConfig, known: Sequence[str] | None = None, typed: str = "") -> str:
    """The message about a key that is not a setting. It names the most similar setting and all settings of the same group.

    If the chosen member of the group has no settings at all, it says instead which choice has this one, and what to type.

    Args:
        key: dotted, as typed: ``loader.num_worker``.
        cfg: a configuration with the same choices of groups.
        known: the settings of the same group; None: those in ``cfg``.
        typed: the override with its value; empty if it is not known.
    """
    parent, _, name = key.rpartition(".")
    if parent and OmegaConf.select(cfg, parent) is None:
        return no_such_setting(key.partition(".")[0], cfg)
    if parent and OmegaConf.get_type(OmegaConf.select(cfg, parent)) is dict:
        return f"{key}: your own option needs a plus in front of it. Type: +{key}=…"
    known = _settings(cfg, parent) if known is None else known
    if parent in SCHEMAS and not known and (owners := _owners(parent, name)):
        chosen = getattr(OmegaConf.get_type(cfg[parent]), "name", "")
        return (
            f"{key}: {parent}={chosen} has no settings; {parent}={' and '.join(owners)} {'has' if len(owners) == 1 else 'have'} "
            f"this one. Type: {parent}={owners[0]} {typed or f'{key}=…'}"
        )
    is_group = parent in SCHEMAS and (CONF / parent).is_dir()
    where = _where(parent, name, cfg, known) if is_group else ""
    return no_such(key, known, where)


def _owners(group: str, name: str) -> list[str]:
    """The choices of a group that have a setting."""
    return [choice for choice, node in SCHEMAS[group].items() if name in {entry.name for entry in fields(node)}]


def _where(group: str, name: str, cfg: DictConfig, known: Sequence[str]) -> str:
    """Text that names the chosen member of the group, and the other choices that have the setting."""
    chosen = cfg.get(group)
    label = getattr(OmegaConf.get_type(chosen), "name", group)
    if OmegaConf.is_missing(chosen, "name"):  # model=timm without a name
        label = group
    elif "name" in chosen:  # a setting, whose default is not its value
        label = chosen.name
    where = f" of {group}={label}" if label != group else ""
    owners = [choice for choice in _owners(group, name) if choice != label]
    if owners and name not in known:
        where += f" (it belongs to {group}={' and '.join(owners)})"
    return where


def _settings(cfg: DictConfig, parent: str) -> list[str]:
    node: Any = OmegaConf.select(cfg, parent) if parent else cfg
    return [str(key) for key in node] if isinstance(node, DictConfig) else []


def missing_value(key: str, cfg: DictConfig) -> str:
    """The message about a setting that has no default and was not typed."""
    parent, _, name = key.rpartition(".")
    kind = OmegaConf.get_type(cfg, parent) if parent else OmegaConf.get_type(cfg)
    assert kind is not None
    return needed(key, next(entry for entry in fields(kind) if entry.name == name))


def example(key: str, cfg: DictConfig) -> str:
    """The override to type, with the value that ``cfg`` has, or with the setting's own example if that is null."""
    name = re.sub(r"\[\d+\]$", "", key)
    value = OmegaConf.select(cfg, name)
    if value is None:
        kind = OmegaConf.get_type(cfg, name.rpartition(".")[0]) if "." in name else OmegaConf.get_type(cfg)
        known = fields(kind) if is_dataclass(kind) else ()
        value = next((entry.metadata["example"] for entry in known if entry.name == name.rpartition(".")[2]), None)
    return "" if value is None or isinstance(value, DictConfig) else f" Type for example: '{key}={value}'"

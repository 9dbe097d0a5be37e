"""Texts about one setting, for ``--help`` and errors. Does not import Hydra."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field
from typing import Any

from loaderlab.system.similar_names import nearest


def no_such(key: str, known: Sequence[str], where: str = "") -> str:
    """The message about a key that is not a setting. It names the most similar setting and all settings of the same group.

    Args:
        key: dotted, as typed: ``loader.num_worker``.
        known: the settings of the same group, without the group's name.
        where: text that names the choice without such a setting; begins with a space.
    """
    parent, _, name = key.rpartition(".")
    prefix = f"{parent}." if parent else ""
    listed = ", ".join(f"{prefix}{entry}" for entry in known)
    here = f"Settings here: {listed}" if listed else "It has no settings"
    return f"{key}: there is no such setting{where}.{nearest(name, known, prefix)} {here}"


def needed(key: str, entry: Field[Any]) -> str:
    """The message about a setting that has no default and was not typed."""
    return f"{key}: a value is needed ({entry.metadata['doc']}). Type for example: {key}=…"


def help_line(name: str, value: object, entry: Field[Any]) -> str:
    """The line of one setting in ``--help``: name, value, documentation and choices."""
    choices = entry.metadata["choices"]
    among = f" [{'|'.join(map(str, choices))}]" if choices else ""
    shown = "null" if value is None else str(value)
    return f"    {name}={shown}".ljust(44) + f" {entry.metadata['doc']}{among}"

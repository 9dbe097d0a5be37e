"""Reads ``name=value`` arguments into the dataclass of a command that does not use Hydra, and makes its ``--help``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, fields
from typing import Any, TypeVar

from loaderlab.cli.page import foot, head
from loaderlab.cli.setting_texts import help_line, needed, no_such
from loaderlab.config import WrongUsage
from loaderlab.config.base import MISSING
from loaderlab.system.program import command

T = TypeVar("T")


def read(name: str, kind: type[T], arguments: Sequence[str]) -> T:
    """The configuration of a command.

    Args:
        name: the command's name, for messages.
        kind: the dataclass of its settings, without nested groups.
        arguments: as typed: ``trace=trace.json``. The last value of a setting counts.

    Raises:
        WrongUsage: a flag, a word without a value, a name that is not a setting, a missing or rejected value.
    """
    entries = {entry.name: entry for entry in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for text in arguments:
        key, equals, value = text.partition("=")
        key = key.lstrip("+")  # the sign with which Hydra adds a setting
        if text.startswith("-") or not equals:
            raise WrongUsage(f"{text}: is not name=value. Type: {command(name)} --help")
        if key not in entries:
            raise WrongUsage(no_such(key, list(entries)))
        values[key] = _value(value, entries[key])
    for key, entry in entries.items():
        if values.get(key, _default(entry)) == MISSING:
            raise WrongUsage(needed(key, entry))
    return kind(**values)


def help_text(name: str, kind: type) -> str:
    """The text of ``--help``: the purpose of the command, and every setting."""
    settings = [help_line(entry.name, _default(entry), entry) for entry in fields(kind)]
    return "\n".join([*head(name), "Settings (type name=value)", *settings, *foot()])


def _default(entry: Field[Any]) -> Any:
    assert entry.default is not NO_DEFAULT, "lists and groups need a command that uses Hydra"
    return entry.default


def _value(text: str, entry: Field[Any]) -> Any:
    """The value as a whole number if the setting accepts one, otherwise as text without the quotes around it."""
    if entry.metadata["kind"] is int and re.fullmatch(r"[-+]?\d+", text, re.ASCII):
        return int(text)
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1].replace(f"\\{text[0]}", text[0])
    return text

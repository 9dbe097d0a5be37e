"""Options of a command that stand before a user's script: ``loaderlab watch --json FILE script.py args…``. Does not import torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loaderlab.attach.script import Program
from loaderlab.config import WrongUsage
from loaderlab.system.program import command
from loaderlab.system.similar_names import nearest


@dataclass(frozen=True)
class Option:
    """An option.

    Attributes:
        value: the name of its value in ``--help``; empty if it has none.
        text: what it is for.
        read: the value from the option's name and what was typed; raises `WrongUsage`.
    """

    value: str
    text: str
    read: Callable[[str, str], Any]


def flag(name: str, value: str) -> bool:
    """True: an option without a value."""
    return True


def text(name: str, value: str) -> str:
    """A text that is not empty."""
    if not value.strip():
        raise WrongUsage(f"{name}: must not be empty")
    return value


def path(name: str, value: str) -> Path:
    """The absolute path of a file to write."""
    target = Path(text(name, value))
    if target.is_dir():
        raise WrongUsage(f"{name} {value}: is a folder. Type the path of a file")
    if target.exists() and not target.is_file():
        raise WrongUsage(
            f"{name} {value}: is not a regular file, and its content would be replaced. Type the path of a file"
        )
    return Path(os.path.abspath(value))  # the script may change the working folder


def percent(name: str, value: str) -> float:
    """A number from 0 to 100."""
    number = _number(value)
    if not 0 <= number <= 100:
        raise WrongUsage(
            f"{name} {value}: must be 0 to 100, a share of the time in percent. Type for example: {name} 10"
        )
    return number


def positive(name: str, value: str) -> float:
    """A number above 0."""
    number = _number(value)
    if not 0 < number < float("inf"):
        raise WrongUsage(f"{name} {value}: must be a number above 0. Type for example: {name} 3")
    return number


def count(name: str, value: str) -> int:
    """A whole number of at least 1."""
    number = _whole(value)
    if number < 1:
        raise WrongUsage(f"{name} {value}: must be a whole number of at least 1. Type for example: {name} 500")
    return number


def count_or_0(name: str, value: str) -> int:
    """A whole number of at least 0."""
    number = _whole(value)
    if number < 0:
        raise WrongUsage(f"{name} {value}: must be a whole number of at least 0. Type for example: {name} 4")
    return number


def _whole(value: str) -> int:
    return int(value) if value.isascii() and value.isdigit() else -1


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return -1.0


def read_arguments(
    arguments: Sequence[str], name: str, options: Mapping[str, Option]
) -> tuple[dict[str, Any], Program | None]:
    """The options' values by name (``fail_if_starved``), and the program; None if help is asked for.

    Args:
        name: of the command: watch.
        options: by their name: ``--json``.

    Raises:
        WrongUsage: an unknown option, a value that is not allowed, no script.
    """
    values: dict[str, Any] = {}
    rest = [*arguments]
    while rest:
        argument = rest.pop(0)
        if argument == "--" and rest:
            return values, Program(rest[0], False, rest[1:])
        if argument in ("-h", "--help"):
            return {}, None
        if argument == "-m":
            if not rest:
                raise WrongUsage(
                    f"-m: the name of a module must follow. Type for example: {command(name)} -m package.train"
                )
            return values, Program(rest[0], True, rest[1:])
        if not argument.startswith("-") or argument == "-":
            return values, Program(argument, False, rest)
        option, value = _option(argument, rest, options)
        values[option.removeprefix("--").replace("-", "_")] = options[option].read(option, value)
    raise WrongUsage(f"the script is missing. Type: {command(name)} train.py")


def _option(argument: str, rest: list[str], options: Mapping[str, Option]) -> tuple[str, str]:
    """The name and the value of an option; a value that was typed as the next argument is taken from ``rest``."""
    option, equals, value = argument.partition("=")
    if option not in options:
        raise WrongUsage(
            f"{option}: there is no such option.{nearest(option, list(options))} Options of loaderlab stand before the script, those of "
            "the script after it"
        )
    if not options[option].value:
        if equals:
            raise WrongUsage(f"{option}: has no value. Type: {option}")
    elif not equals:
        if not rest:
            raise WrongUsage(f"{option}: its value {options[option].value} is missing")
        value = rest.pop(0)
    return option, value


def refuse_one_file(values: Mapping[str, Any]) -> None:
    """Refuses the same file for ``--json`` and ``--html``.

    Raises:
        WrongUsage: it is the same.
    """
    if values.get("json") is not None and values.get("json") == values.get("html"):
        raise WrongUsage(f"--html {values['html']}: is the file of --json too. Type another path")


def option_lines(options: Mapping[str, Option]) -> list[str]:
    """The lines of ``--help`` about the options."""
    shown = {f"{name} {option.value}".rstrip(): option.text for name, option in options.items()}
    width = max(map(len, shown))
    return [f"  {name:<{width + 2}}{text}" for name, text in shown.items()]

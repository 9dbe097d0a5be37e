"""The building blocks of the schema: documented settings, their bounds, and the common form of error messages."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import field, fields, is_dataclass
from typing import Any

from loaderlab.config.exit_codes import ExitCode

AUTO = "auto"
MISSING: Any = "???"  # the default of a required setting; OmegaConf defines this text
LARGEST = 2**31 - 1  # limit of whole numbers, unless a setting has its own
LARGEST_SEED = 2**63 - 1


class UserError(ValueError):
    """An error that the user can correct. Its text gives the value, what is allowed and what to type."""

    exit_code = ExitCode.FAILED


class WrongUsage(UserError):
    """What was typed cannot be used, and nothing was trained."""

    exit_code = ExitCode.WRONG_USAGE


class TooFewSamples(WrongUsage):
    """A rank would have no batch. Some data sets are counted only after the run has started: then it is recorded as FAILED."""


class Failed(Exception):
    """The command ended, and a part of it failed: the text is the last line that is printed."""

    exit_code = ExitCode.FAILED


class GateFailed(Failed):
    """A gate was not passed."""

    exit_code = ExitCode.GATE_NOT_PASSED


class GateNotJudged(UserError):
    """A gate was not passed because there are too few runs to judge it."""

    exit_code = ExitCode.GATE_NOT_PASSED


def setting(
    default: Any,
    doc: str,
    *,
    at_least: float | None = None,
    at_most: int = LARGEST,
    choices: tuple[Any, ...] = (),
    kind: type | None = None,
    example: float | None = None,
) -> Any:
    """A dataclass field with its line of documentation and simple bounds on its value.

    A setting that may be ``auto`` is annotated ``Any``, and ``kind`` is its type otherwise: OmegaConf 2.3 cannot merge a
    union inside a group whose choice is not known yet. A setting whose default is no number has an ``example`` for messages.
    """
    metadata = {
        "doc": doc,
        "at_least": at_least,
        "at_most": at_most,
        "choices": choices,
        "kind": kind,
        "example": example,
    }
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def refuse(
    name: str,
    got: Any,
    allowed: str,
    override: str,
    *,
    is_example: bool = True,
    error: type[UserError] = WrongUsage,
) -> UserError:
    """The error for a rejected setting, in the form that all of them share.

    Args:
        name: of the setting, dotted as the user types it.
        got: its value.
        allowed: what is allowed, or why the value is rejected; without a full stop at the end.
        override: what to type instead.
        is_example: whether other values than the override's are possible too.
        error: the class of the error.
    """
    return error(f"{name}={got}: {allowed}. Type{' for example' * is_example}: {override}")


def is_group(config: Any) -> bool:
    """Whether a value of the config tree is itself a dataclass of settings."""
    return is_dataclass(config) and not isinstance(config, type)


def check_bounds(config: Any, prefix: str = "") -> None:
    """Checks every field of a dataclass tree against the bounds that `setting` declared.

    Raises:
        UserError: a field is out of bounds; the message names the first one.
    """
    for entry in fields(config):
        value, name = getattr(config, entry.name), f"{prefix}{entry.name}"
        if is_group(value):
            check_bounds(value, f"{name}.")
            continue
        choices, at_least = entry.metadata.get("choices", ()), entry.metadata.get("at_least")
        _check_finite(name, value, at_least)
        if value == AUTO and entry.default == AUTO:
            continue
        kind = entry.metadata.get("kind")
        if kind is not None and type(value) is not kind:
            example = "true" if kind is bool else 2
            allowed = "true, false or auto" if kind is bool else "a whole number or auto"
            raise refuse(name, value, f"must be {allowed}", f"{name}={example}")
        if choices and value not in choices:
            raise refuse(name, value, f"must be one of {', '.join(map(str, choices))}", f"{name}={choices[0]}")
        at_most = entry.metadata.get("at_most", LARGEST)
        if any(type(part) is int and part > at_most for part in (value if isinstance(value, list) else [value])):
            raise refuse(name, value, f"must be at most {at_most}", f"{name}={_example(entry.default, at_least)}")
        if at_least is not None and value is not None:
            auto = " or auto" if entry.default == AUTO else ""
            if value < at_least:
                raise refuse(name, value, f"must be at least {at_least:g}{auto}", f"{name}={at_least:g}")


def _check_finite(name: str, value: Any, at_least: float | None) -> None:
    """Rejects NaN and infinity, alone or in a list: they are meaningless for every setting."""
    allowed = "must be finite" if at_least is None else f"must be finite and at least {at_least:g}"
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, float) and not math.isfinite(part):
            raise refuse(name, value, allowed, f"{name}=[0.5,0.5]" if isinstance(value, list) else f"{name}=0.1")


def _example(default: Any, at_least: float | None) -> Any:
    """An example value: the default if it is a number."""
    return default if type(default) is int else max(2, int(at_least or 0))


def choice(config: Any) -> str:
    """The name of the choice of a group's dataclass: ``native``, ``resnet50``, ``bf16``."""
    return str(config.name)


def flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting as (dotted name, value), including the choice of each group as ``group.name``."""
    if prefix and hasattr(config, "name") and "name" not in {entry.name for entry in fields(config)}:
        yield f"{prefix}name", choice(config)
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_group(value):
            yield from flatten(value, f"{prefix}{entry.name}.")
        else:
            yield f"{prefix}{entry.name}", value

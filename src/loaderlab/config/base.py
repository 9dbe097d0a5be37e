"""What every part of the schema is made with: a documented setting, its bounds, the one form of a refusal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import field, fields, is_dataclass
from pathlib import Path
from typing import Any

AUTO = "auto"
MISSING: Any = "???"  # the default of a setting that must be typed; the text is OmegaConf's own
LARGEST = 2**31 - 1  # whole number, unless a setting says otherwise: no machine has as many samples or threads
LARGEST_SEED = 2**63 - 1
PROJECT = Path(__file__).resolve().parents[3]  # conf/, mlruns/, data/


class UserError(ValueError):
    """Something that the user can mend. Its text says what was found, what is allowed and what to type."""


class Failed(Exception):
    """The work was done to its end, and not all of it went well: its text is the last line, the exit code is 1."""


def setting(
    default: Any,
    doc: str,
    *,
    at_least: float | None = None,
    at_most: int = LARGEST,
    choices: tuple[Any, ...] = (),
    kind: type | None = None,
) -> Any:
    """A dataclass field with its line of documentation and the simplest bounds on its value.

    A knob that may be ``auto`` is annotated ``Any`` and says here of what ``kind`` it is otherwise: OmegaConf 2.3
    fails to merge a union inside a group whose choice is still open.
    """
    metadata = {"doc": doc, "at_least": at_least, "at_most": at_most, "choices": choices, "kind": kind}
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
    error: type[UserError] = UserError,
) -> UserError:
    """The error for a refused setting, in the one form that all of them have.

    Args:
        name: of the setting, dotted as it is typed.
        got: its value.
        allowed: what is allowed, or why this value is refused; without a full stop at the end.
        override: what to type instead.
        is_example: whether other values than that of the override would do as well.
        error: the class of the error.
    """
    return error(f"{name}={got}: {allowed}. Type{' for example' * is_example}: {override}")


def is_group(config: Any) -> bool:
    """Whether a value of the tree is itself a dataclass of settings."""
    return is_dataclass(config) and not isinstance(config, type)


def check_bounds(config: Any, prefix: str = "") -> None:
    """Holds every field of a dataclass tree to the bounds that `setting` declared.

    Raises:
        UserError: naming the first field that is out of bounds.
    """
    for entry in fields(config):
        value, name = getattr(config, entry.name), f"{prefix}{entry.name}"
        if is_group(value):
            check_bounds(value, f"{name}.")
            continue
        _check_finite(name, value)
        choices, at_least = entry.metadata.get("choices", ()), entry.metadata.get("at_least")
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


def _check_finite(name: str, value: Any) -> None:
    """Refuses NaN and infinity, alone or in a list: no setting has a meaning for them."""
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, float) and not math.isfinite(part):
            raise refuse(
                name, value, "must be finite", f"{name}=[0.5,0.5]" if isinstance(value, list) else f"{name}=0.1"
            )


def _example(default: Any, at_least: float | None) -> Any:
    """A value to type: the default, if it is a number."""
    return default if type(default) is int else max(2, int(at_least or 0))


def choice(config: Any) -> str:
    """The name of the choice that a group's dataclass stands for: ``native``, ``resnet50``, ``bf16``."""
    return str(config.name)


def flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting as (dotted name, value), the choice of each group as ``group.name`` among them."""
    if prefix and hasattr(config, "name") and "name" not in {entry.name for entry in fields(config)}:
        yield f"{prefix}name", choice(config)
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_group(value):
            yield from flatten(value, f"{prefix}{entry.name}.")
        else:
            yield f"{prefix}{entry.name}", value

"""Settings of the tuner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from loaderlab.config.base import AUTO, refuse, setting

TUNED_BACKENDS = ("native", "spdl", "dali", "resident")
ALSO = ("decoder", "decode", "normalize_on", "in_order")


@dataclass
class TuneConfig:
    """What the tuner looks for, and for how long."""

    minutes: float = setting(3.0, "time limit of the search and its confirmation together, minutes")
    max_starved_pct: float = setting(
        5.0, "the device is fed if it is starved for less than this share of the time, percent"
    )
    backends: Any = setting(
        AUTO,
        "the loaders that may be tried besides the current one, as a list: native, spdl, dali, resident; auto: all that are installed",
    )
    also: Any = setting(
        (),
        "settings that change the loader's work, tried only if they are in this list: decoder, decode, normalize_on, in_order",
    )
    max_makers: int | None = setting(
        None, "largest number of workers or threads; null: as many as the cores can use", at_least=0, example=8
    )
    memory_mib: float | None = setting(
        None, "memory that the loader may use, MiB; null: what the machine and its cgroup have left", example=8192
    )
    name: str = setting("chosen", "name of the file with the chosen settings: a run uses them with +tuned=NAME")

    def __post_init__(self) -> None:
        if not self.minutes > 0:
            raise refuse("tune.minutes", self.minutes, "must be above 0", "tune.minutes=3")
        if not 0 < self.max_starved_pct < 100:
            raise refuse(
                "tune.max_starved_pct", self.max_starved_pct, "must be above 0 and below 100", "tune.max_starved_pct=5"
            )
        if self.memory_mib is not None and not self.memory_mib > 0:
            raise refuse("tune.memory_mib", self.memory_mib, "must be above 0", "tune.memory_mib=8192")
        if self.backends != AUTO:
            self.backends = _listed("tune.backends", self.backends, TUNED_BACKENDS)
        self.also = _listed("tune.also", self.also, ALSO)
        if not self.name.isidentifier():
            allowed = "must start with a letter or _, and contain only letters, digits and _"
            raise refuse("tune.name", self.name, allowed, "tune.name=chosen")


def _listed(name: str, value: Any, allowed: tuple[str, ...]) -> tuple[str, ...]:
    """A list that was typed as ``[a,b]`` or as ``a``."""
    parts = tuple(str(part) for part in value) if isinstance(value, list | tuple) else (str(value),)
    for part in parts:
        if part not in allowed:
            raise refuse(name, part, f"must be a list of {', '.join(allowed)}", f"{name}=[{allowed[0]},{allowed[1]}]")
    return parts

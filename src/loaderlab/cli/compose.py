"""Composes overrides into a configuration, and converts it to the plain dataclasses that all other code uses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import TypeVar

import hydra
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from loaderlab.cli.messages import missing_value, no_such_setting
from loaderlab.cli.schemas import CONF, tuned_folder
from loaderlab.config import WrongUsage, refuse
from loaderlab.system.program import command
from loaderlab.system.similar_names import nearest

T = TypeVar("T")
_NO_NAME = re.compile(r"null|true|false|[-+]?(\d[\d_]*)?\.?\d+(e[-+]?\d+)?|nan|inf", re.IGNORECASE)


def compose(config_name: str, overrides: Sequence[str], *, with_hydra: bool = False) -> DictConfig:
    """The configuration of one run or job.

    Args:
        config_name: train or compare.
        overrides: as typed, each with one value.
        with_hydra: keep Hydra's own settings, under ``hydra``.

    Raises:
        HydraException, OmegaConfBaseException: an override is wrong; `loaderlab.cli.errors.explain` turns this into a message.
    """
    with config_loader():
        return hydra.compose(config_name, overrides=list(overrides), return_hydra_config=with_hydra)


@contextmanager
def config_loader() -> Iterator[ConfigLoader]:
    """Hydra's configuration loader for our configuration files."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def refuse_no_choice(arguments: Sequence[str]) -> None:
    """Rejects ``loader=null`` and ``loader=1``, and settings of the tuner that do not exist: Hydra's own errors for them do not list the
    choices.

    Raises:
        WrongUsage: the value of a group is not the name of a choice.
    """
    for text in arguments:
        group, equals, value = text.partition("=")
        if group == "+tuned":
            _refuse_untuned(value)
        if equals and (CONF / group).is_dir() and _NO_NAME.fullmatch(value):
            choices = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
            if group in ("study", "rung"):
                why = "is not a choice. Leave it out, or choose one of"
            else:
                why = "is not a choice: one of"
            raise refuse(group, value, f"{why} {', '.join(choices)}", f"{group}={choices[0]}")


def _refuse_untuned(value: str) -> None:
    """Raises:
    WrongUsage: the tuner has not written these settings.
    """
    known = sorted(path.stem for path in (tuned_folder() / "tuned").glob("*.yaml"))
    for name in value.split(","):
        if not known:
            raise WrongUsage(f"+tuned={name}: nothing has been tuned yet. Type: {command('tune')} tune.name={name}")
        if name not in known:
            listed = f"there is no such choice.{nearest(name, known)} tuned is one of: {', '.join(known)}"
            raise WrongUsage(f"+tuned={name}: {listed}. {command('tune')} tune.name=… writes another one")


def typed(cfg: DictConfig, kind: type[T]) -> T:
    """The plain dataclass tree of a composed configuration.

    Raises:
        WrongUsage: a key that is not a setting, a missing value, a wrong type, or values that contradict each other.
    """
    for key, known in _unknown_keys(cfg):
        raise WrongUsage(no_such_setting(key, cfg, known, f"{key}={OmegaConf.select(cfg, key)}"))
    for key in sorted(OmegaConf.missing_keys(cfg)):
        raise WrongUsage(missing_value(key, cfg))
    config = OmegaConf.to_object(cfg)
    assert isinstance(config, kind)
    return config


def _unknown_keys(cfg: DictConfig, prefix: str = "") -> Iterator[tuple[str, list[str]]]:
    """Each key that is not a field of its dataclass, with the names of the fields. Hydra accepts ``+nosuch=1``."""
    kind = OmegaConf.get_type(cfg)
    if kind is None or kind is dict:
        return  # a dictionary that accepts any key, such as data.options
    known = [entry.name for entry in fields(kind)]
    for key in map(str, cfg):
        if key not in known:
            yield f"{prefix}{key}", known
        elif not OmegaConf.is_missing(cfg, key) and isinstance(cfg[key], DictConfig):
            yield from _unknown_keys(cfg[key], f"{prefix}{key}.")

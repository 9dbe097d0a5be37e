"""Turns an error of composing into one message: the typed text, what is allowed, and what to type instead."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import fields

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from loaderlab.cli.compose import compose
from loaderlab.cli.messages import example, no_such_setting
from loaderlab.cli.schemas import CONF, SCHEMAS
from loaderlab.config import Failed, UserError
from loaderlab.system.causes import causes, reason, safe_text, with_cause
from loaderlab.system.similar_names import nearest

QUOTED = {"compare": "filter"}  # the setting that a message uses as its example of quotes


def explain(error: BaseException, config_name: str, arguments: Sequence[str]) -> str:
    """One message that explains an error of composing.

    Args:
        error: raised by Hydra, OmegaConf or loaderlab.
        config_name: train or compare.
        arguments: everything typed. The choices of groups in it decide which settings a message names.
    """
    match error:
        case UserError() | Failed():
            return str(error)
        case MissingConfigException() if error.missing_cfg_file and error.options:
            group, _, given = error.missing_cfg_file.rpartition("/")
            return (
                f"{group}={given}: there is no such choice.{nearest(given, error.options)} {group} is one of: "
                + ", ".join(error.options)
            )
        case OverrideParseException():
            return (
                f"{reason(error)}\nValues with = ( ) < > ? or spaces need quotes that the shell does not remove, "
                f"""for example: '{QUOTED.get(config_name, "tracking.experiment")}="a=b"'"""
            )
    text = "\n".join(safe_text(each) for each in (error, *causes(error)))
    if match := re.search(r"Ambiguous value for argument '(.*)'", text):
        if config_name == "tune":
            name = match[1].partition("=")[0]
            return f"{match[1]}: the tuner chooses the values that it tries by itself. Type one value: {name}=…"
        return f"{match[1]}: several values make a sweep. Type: -m {match[1]}"
    background = functools.partial(_background, config_name, arguments, text)
    if match := re.search(r"Key '(\S+)' is not in struct\s+full_key: (\S+)", text):
        return no_such_setting(match[2], background(match[2]), typed=_override(match[2], arguments))
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1].partition("@")[0]
        if key == "tuned":
            return "tuned: settings of the tuner are added with a plus. Type: +tuned=NAME"
        return no_such_setting(key, background(key), typed=_override(key, arguments))
    if match := re.search(r"(Value .*|Invalid .*|.*could not be converted.*)\s+full_key: (\S+)", text):
        return f"{match[2]}: {match[1].strip()}.{example(match[2], background(match[2]))}"
    return with_cause(error, " ".join(safe_text(error).split()) or type(error).__name__)


def _override(key: str, arguments: Sequence[str]) -> str:
    """The override of a key as it was typed; empty if it came from elsewhere, such as a study."""
    return next((text for text in arguments if text.startswith(f"{key}=")), "")


def _background(config_name: str, arguments: Sequence[str], error_text: str, key: str) -> DictConfig:
    """The configuration with the typed choices of groups and no other override, which composes although the whole does not.

    In a sweep, the group of the key has the choice whose job failed: OmegaConf's error names its dataclass.
    """
    (kind,) = SCHEMAS[config_name].values()
    groups = {entry.name for entry in fields(kind) if (CONF / entry.name).is_dir()}
    choices = [text for text in arguments if re.fullmatch(r"[a-z]+=[\w-]+", text) and text.partition("=")[0] in groups]
    cfg = _composed(config_name, tuple(choices))
    group = key.partition(".")[0]
    if group in groups and (choice := _failed_choice(group, cfg, error_text)):
        choices = [text for text in choices if not text.startswith(f"{group}=")]
        return _composed(config_name, (*choices, f"{group}={choice}"))
    return cfg


def _failed_choice(group: str, cfg: DictConfig, error_text: str) -> str:
    """The choice of the group that the error is about; empty if it is that of ``cfg``, or if the error does not say."""
    present = OmegaConf.get_type(cfg, group)
    for choice, kind in SCHEMAS.get(group, {}).items():
        if kind is not present and re.search(rf"object_type={kind.__name__}$", error_text, re.MULTILINE):
            return choice
    return ""


@functools.cache
def _composed(config_name: str, overrides: tuple[str, ...]) -> DictConfig:
    return compose(config_name, overrides)

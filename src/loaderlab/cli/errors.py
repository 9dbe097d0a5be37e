"""An error of composing, explained in one message: what was typed, what is allowed, what to type."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import fields

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig

from loaderlab.cli.compose import compose
from loaderlab.cli.messages import example, no_such_setting
from loaderlab.cli.schemas import CONF, SCHEMAS
from loaderlab.cli.setting_texts import nearest
from loaderlab.config import Failed, UserError
from loaderlab.system.causes import causes, reason, safe_text, with_cause

QUOTED = {"compare": "filter"}  # the setting with which a message shows how values are quoted


def explain(error: BaseException, config_name: str, arguments: Sequence[str]) -> str:
    """One message in plain words for an error of composing.

    Args:
        error: raised by Hydra, OmegaConf or loaderlab.
        config_name: train or compare.
        arguments: all that was typed; the choices of groups among them decide which settings a message names.
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
                f"{reason(error)}\nValues with = ( ) < > ? or spaces need quotes that the shell leaves in place, "
                f"""for example: '{QUOTED.get(config_name, "tracking.experiment")}="a=b"'"""
            )
    text = "\n".join(safe_text(each) for each in (error, *causes(error)))
    if match := re.search(r"Ambiguous value for argument '(.*)'", text):
        return f"{match[1]}: several values make a sweep. Type: -m {match[1]}"
    if match := re.search(r"Key '(\S+)' is not in struct\s+full_key: (\S+)", text):
        return no_such_setting(match[2], _background(config_name, arguments))
    if match := re.search(r"Could not override '([^']+)'", text):
        return no_such_setting(match[1].partition("@")[0], _background(config_name, arguments))
    if match := re.search(r"(Value .*|Invalid .*|.*could not be converted.*)\s+full_key: (\S+)", text):
        return f"{match[2]}: {match[1].strip()}.{example(match[2], _background(config_name, arguments))}"
    return with_cause(error, " ".join(safe_text(error).split()) or type(error).__name__)


def _background(config_name: str, arguments: Sequence[str]) -> DictConfig:
    """The configuration with the typed choices of groups and no other override: it composes when the whole does not."""
    (kind,) = SCHEMAS[config_name].values()
    groups = {entry.name for entry in fields(kind) if (CONF / entry.name).is_dir()}
    choices = [text for text in arguments if re.fullmatch(r"[a-z]+=[\w-]+", text) and text.partition("=")[0] in groups]
    return _composed(config_name, tuple(choices))


@functools.cache
def _composed(config_name: str, overrides: tuple[str, ...]) -> DictConfig:
    return compose(config_name, overrides)

"""The text of ``--help``. Hydra's own help composes every group to list it, which takes seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf

from loaderlab.cli.arguments import asks_for_sweep, overrides_of
from loaderlab.cli.compose import compose, config_loader
from loaderlab.cli.page import foot, head
from loaderlab.cli.schemas import CONF, SCHEMAS
from loaderlab.cli.setting_texts import help_line


def help_text(config_name: str, arguments: Sequence[str]) -> str:
    """The whole text: every group with its choices, then every setting of the choices that were typed.

    For a sweep, it shows the settings of the first job, and says so.

    Raises:
        HydraException, OmegaConfBaseException: an override is wrong.
    """
    cfg, swept = _first_job(config_name, arguments)
    groups = _groups(cfg)
    lines = [*head(config_name), *groups]
    if swept:
        lines += [f"Help for the first job of the sweep: {' '.join(swept)}", ""]
    lines.append("Settings of the chosen groups (type name=value)" if groups else "Settings (type name=value)")
    lines += _settings(cfg)
    lines += foot("--cfg job prints the composed configuration; HYDRA_FULL_ERROR=1 shows the traceback of an error.")
    return "\n".join(lines)


def _first_job(config_name: str, arguments: Sequence[str]) -> tuple[DictConfig, list[str]]:
    """The configuration of the only run or of a sweep's first job, and the first value of each list of the sweep.

    As in Hydra, the overrides with one value are applied first. They decide (``study=ladder``) whether this is a sweep and
    which lists it has. A typed override replaces the study's.
    """
    typed = overrides_of(arguments)
    with config_loader() as loader:  # the parser needs it for the choices that glob(*) matches
        parser = OverridesParser.create(loader)
        overrides = parser.parse_overrides(typed)
        single = [text for text, override in zip(typed, overrides, strict=True) if not override.is_sweep_override()]
    cfg = compose(config_name, single, with_hydra=True)
    if not asks_for_sweep(arguments) and cfg.hydra.mode is not RunMode.MULTIRUN:
        return (
            cfg if single == typed else compose(config_name, typed)
        ), []  # raises Hydra's error if there are several values
    study = parser.parse_overrides([f"{name}={value}" for name, value in (cfg.hydra.sweeper.params or {}).items()])
    merged = {override.get_key_element(): override for override in [*study, *overrides]}
    swept = [_first_value(override) for override in merged.values() if override.is_sweep_override()]
    if swept:
        cfg = compose(config_name, [_first_value(override) for override in merged.values()])
    return cfg, swept


def _first_value(override: Override) -> str:
    """The override with the first of its values, or as typed if it has only one.

    Raises:
        HydraException: the values are an interval. A sweep rejects it with the same message.
    """
    if override.is_interval_sweep():
        raise HydraException("BasicSweeper does not support sweep type : INTERVAL_SWEEP")
    if override.is_discrete_sweep():
        return f"{override.get_key_element()}={next(override.sweep_string_iterator())}"
    assert override.input_line is not None
    return override.input_line


def _groups(cfg: DictConfig) -> list[str]:
    """Every group and its choices, each with the first comment of its file; empty if the command has no groups."""
    folders = sorted(path for path in CONF.iterdir() if path.is_dir() and path.name in cfg)
    if not folders:
        return []
    lines = ["Groups and their choices (type group=choice)"]
    for folder in folders:
        lines.append(f"  {folder.name}")
        for file in sorted(folder.glob("*.yaml")):
            comments = [
                line.removeprefix("# ")
                for line in file.read_text(encoding="utf-8").splitlines()
                if line.startswith("# ")
            ]
            doc = next(line for line in comments if not line.startswith("@"))
            lines.append(f"    {file.stem:<18}{doc}")
    return [*lines, ""]


def _settings(node: DictConfig, prefix: str = "") -> list[str]:
    """A line for each setting; nested groups come last."""
    lines: list[str] = []
    groups: list[str] = []
    kind = OmegaConf.get_type(node)
    assert isinstance(kind, type)
    for entry in fields(kind):
        name = f"{prefix}{entry.name}"
        value = MISSING if OmegaConf.is_missing(node, entry.name) else node[entry.name]
        if isinstance(value, DictConfig) and OmegaConf.get_type(value) is not dict:
            groups += _group(name, value, entry.metadata["doc"])
            continue
        lines.append(help_line(name, value, entry))
    return lines + groups


def _group(name: str, node: DictConfig, doc: str) -> list[str]:
    """The lines of a group; one line if the choice has no settings."""
    kind = OmegaConf.get_type(node)
    assert isinstance(kind, type)
    if fields(kind):
        return [f"  {name}: {doc}", *_settings(node, f"{name}.")]
    chosen = getattr(kind, "name", "")
    others = [choice for choice, other in SCHEMAS.get(name, {}).items() if fields(other)]
    example = f"; {name}={others[0]} --help shows those of {name}={others[0]}" if others else ""
    return [f"  {name}: {doc}. {name}={chosen} has no settings{example}"]

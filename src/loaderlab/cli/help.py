"""The page of ``--help``. Hydra's own page lists the groups by composing each of them, which takes seconds."""

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
from loaderlab.cli.schemas import CONF

INTRODUCTION = {  # what the entry point is for, then examples
    "train": (
        "loaderlab: is the GPU starved by its input pipeline, by how much, and what ends it?",
        "loader=dali precision=bf16           one run",
        "-m loader=native,dali repeat=1,2,3   a sweep: every combination, each in a process of its own",
        "loader=dali --help                   this page, with the settings of loader=dali",
    ),
    "trace": (
        "loaderlab: was the GPU starved by its input pipeline? Read from a trace of PyTorch's profiler, of any program",
        "trace=log/host_1234.pt.trace.json.gz   a row for each profiler step, and the verdict",
        "trace=trace.json format=json           the same for machines, alone on stdout",
        "trace=trace.json wait=next_batch       a loop that waits for data in a range of its own name",
    ),
    "compare": (
        "loaderlab: recorded runs side by side: who is faster, by how much, at what cost, and did they learn the same?",
        "                                      the latest sweep",
        "runs=RUN_ID output=report             a sweep by its run id, as report/report.html, .csv, .json and .md",
        "runs=all baseline=loader:native       every run of the experiment, held against its native twin",
        """'filter="params.batch_size = \\"64\\""'    of all runs those that an MLflow filter takes""",
        "baseline=RUN_ID fail_if.rate_below=0.95   a gate: exit code 1 where the latest sweep is slower than that one",
    ),
}


def help_text(config_name: str, arguments: Sequence[str]) -> str:
    """The whole page: every group with its choices, then every setting of the choices that were typed.

    Of a sweep it shows the settings of the first job, and says so.

    Raises:
        HydraException, OmegaConfBaseException: an override is wrong.
    """
    cfg, swept = _first_job(config_name, arguments)
    title, *examples = INTRODUCTION[config_name]
    lines = [title, "", *(f"  python -m experiments.{config_name} {example}" for example in examples), ""]
    groups = _groups(cfg)
    lines += groups
    if swept:
        lines += [f"Help for the first job of the sweep: {' '.join(swept)}", ""]
    lines.append("Settings of the present choices (type name=value)" if groups else "Settings (type name=value)")
    lines += _settings(cfg)
    lines += [
        "",
        "--cfg job prints the composed configuration; HYDRA_FULL_ERROR=1 shows the frames of an error.",
    ]
    return "\n".join(lines)


def _first_job(config_name: str, arguments: Sequence[str]) -> tuple[DictConfig, list[str]]:
    """The configuration of the only run or of a sweep's first job, and the first value of each list of the sweep.

    Like Hydra: what has one value comes first, and decides (``study=ladder``) whether this is a sweep and which lists it
    has; a typed override replaces the study's own.
    """
    typed = overrides_of(arguments)
    with config_loader() as loader:  # it gives glob(*) its choices
        parser = OverridesParser.create(loader)
        overrides = parser.parse_overrides(typed)
        single = [text for text, override in zip(typed, overrides, strict=True) if not override.is_sweep_override()]
    cfg = compose(config_name, single, with_hydra=True)
    if not asks_for_sweep(arguments) and cfg.hydra.mode is not RunMode.MULTIRUN:
        return (cfg if single == typed else compose(config_name, typed)), []  # several values: Hydra's error
    study = parser.parse_overrides([f"{name}={value}" for name, value in (cfg.hydra.sweeper.params or {}).items()])
    merged = {override.get_key_element(): override for override in [*study, *overrides]}
    swept = [_first_value(override) for override in merged.values() if override.is_sweep_override()]
    if swept:
        cfg = compose(config_name, [_first_value(override) for override in merged.values()])
    return cfg, swept


def _first_value(override: Override) -> str:
    """The override with the first of its values, or as it was typed if it has one.

    Raises:
        HydraException: the values are an interval: a sweep refuses it with the same text.
    """
    if override.is_interval_sweep():
        raise HydraException("BasicSweeper does not support sweep type : INTERVAL_SWEEP")
    if override.is_discrete_sweep():
        return f"{override.get_key_element()}={next(override.sweep_string_iterator())}"
    assert override.input_line is not None
    return override.input_line


def _groups(cfg: DictConfig) -> list[str]:
    """Every group and its choices, each with the first comment of its file; empty if the entry point has no groups."""
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
    """A line for each setting, those of nested groups last."""
    lines: list[str] = []
    groups: list[str] = []
    kind = OmegaConf.get_type(node)
    assert isinstance(kind, type)
    for entry in fields(kind):
        name = f"{prefix}{entry.name}"
        value = MISSING if OmegaConf.is_missing(node, entry.name) else node[entry.name]
        if isinstance(value, DictConfig) and OmegaConf.get_type(value) is not dict:
            groups += [f"  {name}: {entry.metadata['doc']}", *_settings(value, f"{name}.")]
            continue
        choices = entry.metadata["choices"]
        among = f" [{'|'.join(map(str, choices))}]" if choices else ""
        shown = "null" if value is None else str(value)
        lines.append(f"    {name}={shown}".ljust(44) + f" {entry.metadata['doc']}{among}")
    return lines + groups

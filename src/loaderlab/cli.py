"""Between the command line and the typed configuration: Hydra's schemas, ``--help``, errors in plain words.

The entry points under ``experiments/`` call `main`. Only this file and the sweep's launcher know of Hydra.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from loaderlab import config as schema
from loaderlab.config import PROJECT, Failed, UserError
from loaderlab.system import machine

T = TypeVar("T")
CONF = PROJECT / "conf"
SCHEMAS: dict[str, dict[str, type]] = {
    "data": {
        "digits": schema.DigitsData,
        "photos": schema.PhotosData,
        "imagefolder": schema.ImageFolderData,
        "webdataset": schema.WebDatasetData,
        "vectors": schema.VectorsData,
        "cifar10": schema.Cifar10Data,
        "mnist": schema.MnistData,
        "custom": schema.CustomData,
    },
    "model": {
        "feedforward": schema.FeedForwardModel,
        "cnn": schema.CnnModel,
        "timm": schema.TimmModel,
        "custom": schema.CustomModel,
    },
    "loader": {
        "native": schema.NativeLoader,
        "spdl": schema.SpdlLoader,
        "dali": schema.DaliLoader,
        "resident": schema.ResidentLoader,
        "replay": schema.ReplayLoader,
    },
    "precision": {"precision": schema.PrecisionConfig},
    "optimizer": {"sgd": schema.SgdOptimizer, "adamw": schema.AdamWOptimizer},
    "measure": {"measure": schema.MeasureConfig},
    "tracking": {"tracking": schema.TrackingConfig},
    "train": {"train": schema.TrainConfig},
    "trace": {"trace": schema.TraceConfig},
    "compare": {"compare": schema.CompareConfig},
}
HELP = {  # first lines of ``--help``: what it is for, then examples
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
QUOTED = {"trace": "wait", "compare": "filter"}  # the setting with which a message shows how values are quoted
COUNTS: dict[str, Callable[[], Any]] = {  # what studies ask of the machine
    "worker_counts": lambda: ",".join(map(str, machine.worker_counts(machine.available_cores()))),
    "thread_counts": lambda: ",".join(map(str, machine.worker_counts(machine.available_cores())[1:])),
    "ladder_workers": lambda: min(8, machine.available_cores()),
    "ladder_precision": lambda: "bf16" if machine.has_bf16() else "fp32",
}
INTERRUPTED = 130  # the shell's exit code of a program ended by Ctrl-C


def register() -> None:
    """Makes the schemas and the sweep's launcher known to Hydra; again is harmless."""
    store = ConfigStore.instance()
    for group, choices in SCHEMAS.items():
        for name, node in choices.items():
            store.store(group=f"schema/{group}", name=name, node=node)
    for name, count in COUNTS.items():
        OmegaConf.register_new_resolver(name, count, replace=True)
    launcher = {"_target_": "hydra_plugins.loaderlab_launcher.LoaderlabLauncher"}
    store.store(group="hydra/launcher", name="loaderlab", node=launcher)


def typed(cfg: DictConfig, kind: type[T]) -> T:
    """The plain dataclass tree of a composed configuration.

    Raises:
        UserError: a key that is no setting, a missing value, a wrong type, or values that contradict each other.
    """
    for key, known in _unknown_keys(cfg):
        raise UserError(_no_such_setting(key, known))
    for key in sorted(OmegaConf.missing_keys(cfg)):
        raise UserError(_missing(cfg, key))
    config = OmegaConf.to_object(cfg)
    assert isinstance(config, kind)
    return config


def main(config_name: str, kind: type[T], job: Callable[[T, list[str]], None]) -> int:
    """Runs an entry point: composes, types the configuration, calls ``job(config, overrides)``.

    Returns:
        The exit code: 0 when all went well, 1 on an error, 130 on Ctrl-C, 143 on SIGTERM.

    HYDRA_FULL_ERROR=1 shows the frames of an error that is otherwise told in one message.
    """
    register()
    frames = os.environ.get("HYDRA_FULL_ERROR")

    failures: list[Exception] = []

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)
    def app(cfg: DictConfig) -> None:
        try:
            job(typed(cfg, kind), list(HydraConfig.get().overrides.task))
        except Exception as error:  # Hydra would print a line of its own before ours
            failures.append(error)

    # argparse takes no options between the overrides
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda text: text not in ("-m", "--multirun"))
    try:
        if {"--help", "-h"} & set(sys.argv[1:]):
            print(help_text(config_name))  # Hydra's own page lists the groups by composing each: seconds
            return 0
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing: the message is ours
        app()
        if failures:
            raise failures[0]
        return 0
    except (HydraException, OmegaConfBaseException, UserError, Failed) as error:
        if frames:
            raise
        print(f"\nerror: {explain(error, config_name)}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read the output has had enough: `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except KeyboardInterrupt as interrupt:
        print("\ninterrupted: what was recorded before is kept", file=sys.stderr)
        return int(getattr(interrupt, "exit_code", INTERRUPTED))
    finally:
        os.environ.pop("HYDRA_FULL_ERROR", None)
        if frames:
            os.environ["HYDRA_FULL_ERROR"] = frames


# ---- errors ----------------------------------------------------------------------------------------------------


def explain(error: BaseException, config_name: str = "train") -> str:
    """One message in plain words for an error of composing: what was typed, what is allowed, what to type."""
    match error:
        case UserError() | Failed():
            return str(error)
        case MissingConfigException() if error.missing_cfg_file and error.options:
            group, _, given = error.missing_cfg_file.rpartition("/")
            return (
                f"{group}={given}: there is no such choice.{_nearest(given, error.options)} {group} is one of: "
                + ", ".join(error.options)
            )
        case OverrideParseException():
            text = str(error).splitlines()[0]
            return (
                f"{text}\nValues with = ( ) < > ? or spaces need quotes that the shell leaves in place, "
                f"""for example: '{QUOTED.get(config_name, "tracking.experiment")}="a=b"'"""
            )
    text = f"{error}\n{error.__cause__ or ''}"
    if found := re.search(r"Ambiguous value for argument '(.*)'", text):
        return f"{found[1]}: several values make a sweep. Type: -m {found[1]}"
    if found := re.search(r"Key '(\S+)' is not in struct\s+full_key: (\S+)", text):
        return _no_such_setting(found[2], None, config_name)
    if found := re.search(r"Could not override '([^']+)'", text):
        return _no_such_setting(found[1].partition("@")[0], None, config_name)
    if found := re.search(r"(Value .*|Invalid .*|.*could not be converted.*)\s+full_key: (\S+)", text):
        return f"{found[2]}: {found[1].strip()}.{_example(found[2], config_name)}"
    return str(error)


def _example(key: str, config_name: str) -> str:
    """The override to type, with the value that is in force without one."""
    present = OmegaConf.select(_composed(config_name), re.sub(r"\[\d+\]$", "", key))
    return "" if present is None or isinstance(present, DictConfig) else f" Type for example: '{key}={present}'"


def _composed(config_name: str) -> DictConfig:
    """The configuration with only the choices of groups that were typed: a background for a message."""
    (kind,) = SCHEMAS[config_name].values()
    groups = {entry.name for entry in fields(kind) if (CONF / entry.name).is_dir()}
    typed_choices = [
        text for text in sys.argv[1:] if re.fullmatch(r"[a-z]+=[\w-]+", text) and text.partition("=")[0] in groups
    ]
    return _background(config_name, tuple(typed_choices))


@functools.cache
def _background(config_name: str, overrides: tuple[str, ...]) -> DictConfig:
    return _compose(config_name, list(overrides))


def _compose(config_name: str, overrides: list[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(config_name, overrides=overrides)


def _settings(cfg: DictConfig, parent: str) -> list[tuple[str, Any]]:
    node = OmegaConf.select(cfg, parent) if parent else cfg
    if not isinstance(node, DictConfig):
        return []
    return [(str(key), None if OmegaConf.is_missing(node, key) else node[key]) for key in node]


def _no_such_setting(key: str, known: list[str] | None, config_name: str = "train") -> str:
    parent, _, name = key.rpartition(".")
    if parent and OmegaConf.select(_composed(config_name), parent) is None:
        return _no_such_setting(key.partition(".")[0], None, config_name)
    if parent and OmegaConf.get_type(OmegaConf.select(_composed(config_name), parent)) is dict:
        return f"{key}: an option of your own is added with a plus. Type: +{key}=…"
    if not known:
        known = [key for key, _ in _settings(_composed(config_name), parent)]
    where = ""
    if parent in SCHEMAS:
        chosen = _composed(config_name).get(parent)
        label = getattr(OmegaConf.get_type(chosen), "name", None) or OmegaConf.select(chosen, "name", default=parent)
        where = f" of {parent}={label}" if label != parent else ""
        owners = [
            choice
            for choice, node in SCHEMAS[parent].items()
            if choice != label and name in {entry.name for entry in fields(node)}
        ]
        if owners and name not in known:
            where += f" (it belongs to {parent}={' and '.join(owners)})"
    prefix = f"{parent}." if parent else ""
    listed = ", ".join(f"{prefix}{entry}" for entry in known) or "none"
    return f"{key}: there is no such setting{where}.{_nearest(name, known, prefix)} Settings here: {listed}"


def _nearest(given: str, known: Sequence[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(given, known, n=1)
    return f" Did you mean {prefix}{near[0]}?" if near else ""


def _missing(cfg: DictConfig, key: str) -> str:
    parent, _, name = key.rpartition(".")
    kind = OmegaConf.get_type(OmegaConf.select(cfg, parent)) if parent else OmegaConf.get_type(cfg)
    doc = next(entry.metadata["doc"] for entry in fields(kind) if entry.name == name)  # type: ignore[arg-type]
    return f"{key}: a value is needed ({doc}). Type for example: {key}=…"


def _unknown_keys(cfg: DictConfig, prefix: str = "") -> Iterator[tuple[str, list[str]]]:
    kind = OmegaConf.get_type(cfg)
    if kind is None or kind is dict:
        return  # a free dictionary such as data.options
    known = [entry.name for entry in fields(kind)]
    for key in map(str, cfg):
        if key not in known:
            yield f"{prefix}{key}", known
        elif not OmegaConf.is_missing(cfg, key) and isinstance(cfg[key], DictConfig):
            yield from _unknown_keys(cfg[key], f"{prefix}{key}.")


# ---- help ------------------------------------------------------------------------------------------------------


def help_text(config_name: str) -> str:
    """The text of ``--help``: every group with its choices, then every setting of the choices that were typed."""
    cfg = _compose(config_name, [text for text in sys.argv[1:] if not text.startswith("-")])
    title, *examples = HELP[config_name]
    lines = [title, "", *(f"  python -m experiments.{config_name} {example}" for example in examples), ""]
    groups = sorted(path for path in CONF.iterdir() if path.is_dir() and path.name in cfg)
    if groups:
        lines.append("Groups and their choices (type group=choice)")
        for folder in groups:
            lines.append(f"  {folder.name}")
            for file in sorted(folder.glob("*.yaml")):
                comments = [line.removeprefix("# ") for line in file.read_text().splitlines() if line.startswith("# ")]
                doc = next(line for line in comments if not line.startswith("@"))
                lines.append(f"    {file.stem:<18}{doc}")
        lines.append("")
    lines.append("Settings of the present choices (type name=value)" if groups else "Settings (type name=value)")
    lines += _help_settings(cfg)
    lines += [
        "",
        "--cfg job prints the composed configuration; HYDRA_FULL_ERROR=1 shows the frames of an error.",
    ]
    return "\n".join(lines)


def _help_settings(node: DictConfig, prefix: str = "") -> list[str]:
    lines: list[str] = []
    groups: list[str] = []
    kind = OmegaConf.get_type(node)
    assert isinstance(kind, type)
    for entry in fields(kind):
        name = f"{prefix}{entry.name}"
        value = "???" if OmegaConf.is_missing(node, entry.name) else node[entry.name]
        if isinstance(value, DictConfig) and OmegaConf.get_type(value) is not dict:
            groups += [f"  {name}: {entry.metadata['doc']}", *_help_settings(value, f"{name}.")]
            continue
        choices = entry.metadata["choices"]
        among = f" [{'|'.join(map(str, choices))}]" if choices else ""
        shown = "null" if value is None else str(value)
        lines.append(f"    {name}={shown}".ljust(44) + f" {entry.metadata['doc']}{among}")
    return lines + groups

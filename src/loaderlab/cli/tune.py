"""``loaderlab tune``: the cheapest settings of a loader that keep the device fed, for a run or for any training script."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from loaderlab.cli.arguments import MULTIRUN, asks_for_help, asks_for_sweep
from loaderlab.cli.composed import composed
from loaderlab.cli.frame import framed
from loaderlab.config import TunedTrainConfig, WrongUsage, refuse
from loaderlab.system.processes import importing
from loaderlab.system.program import command

WITH_VALUE = {"-c", "--cfg", "-p", "--package", "-cd", "--config-dir", "-cn", "--config-name", "-cp", "--config-path"}
ALONE = {"-h", "--help", "--hydra-help", "--resolve", "--info", "-i", "--version", "-r", "--run", *MULTIRUN}


def job(config: TunedTrainConfig, overrides: list[str]) -> None:
    """Tunes the loader of a run."""
    with importing():
        from loaderlab.system.terminal import Terminal
        from loaderlab.tuning.suite_command import tune_run

    tune_run(config, overrides, Terminal())


def names_script(arguments: Sequence[str]) -> bool:
    """Whether the arguments are those of a training script: ``script.py …``, ``--steps 50 script.py …`` or ``-m package.train …``.

    >>> names_script(["loader=native"]), names_script(["--cfg", "job", "batch_size=8"]), names_script(["-m", "loader=native,dali"])
    (False, False, False)
    >>> names_script(["train.py", "lr=1"]), names_script(["--steps", "50", "train.py"]), names_script(["-m", "package.train"])
    (True, True, True)
    """
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument in MULTIRUN and rest and not _is_override(rest[0]) and not rest[0].startswith("-"):
            return argument == "-m"
        if argument in WITH_VALUE:
            del rest[:1]
        elif argument not in ALONE:
            return not _is_override(argument)
    return False


def _is_override(argument: str) -> bool:
    return not argument.startswith("-") and ("=" in argument or argument.startswith("~"))


def refuse_sweep(arguments: Sequence[str]) -> None:
    """Raises:
    WrongUsage: the arguments ask for a sweep.
    """
    if asks_for_sweep(arguments):
        raise WrongUsage(
            f"-m: the tuner chooses the settings that it tries by itself, so it has no sweep. Type: {command('tune')}, or "
            f"{command('train')} -m"
        )
    for text in arguments:
        name, _, value = text.partition("=")
        if name == "study":
            raise refuse("study", value, "is a sweep, and the tuner tries settings by itself", "study=null")


def start(arguments: Sequence[str]) -> int:
    """The exit code, after running the command."""
    if names_script(arguments):
        return int(importlib.import_module("loaderlab.tuning.script").start(arguments))
    if not asks_for_help(arguments) and (code := framed("tune", lambda: refuse_sweep(arguments))):
        return code
    return composed("tune", TunedTrainConfig, job, arguments)

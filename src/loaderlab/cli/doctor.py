"""``loaderlab doctor``: checks whether a long run would fail on this machine. One line for each check."""

from __future__ import annotations

from collections.abc import Sequence

from loaderlab.cli.arguments import asks_for_help, asks_for_sweep
from loaderlab.cli.composed import composed
from loaderlab.cli.frame import framed
from loaderlab.cli.page import foot
from loaderlab.config import TrainConfig, WrongUsage, refuse_single, refuse_typed
from loaderlab.system.program import command
from loaderlab.system.streams import lossy

PAGE = """{command} [name=value ...]

Checks whether a long run would fail on this machine. One line for each check.

Type the settings of the run, such as tracking.uri=sqlite:///… device=cuda checkpoint.dir=outputs. Every setting of
{train} is accepted. The store is created if it is missing. The exit code is 1 if a run would fail."""


def job(config: TrainConfig, overrides: list[str]) -> None:
    """Checks whether this machine can run the configuration."""
    refuse_typed(config, overrides)
    refuse_single(config)
    from loaderlab.runs.doctor import examine
    from loaderlab.system.terminal import Terminal

    examine(config, Terminal())


def start(arguments: Sequence[str]) -> int:
    """The exit code, after running the command."""
    is_sweep = asks_for_sweep(arguments) or any(text.startswith("study=") for text in arguments)
    if not asks_for_help(arguments) and not is_sweep:
        return composed("train", TrainConfig, job, arguments, "doctor")

    def work() -> None:
        if not asks_for_help(arguments):  # Hydra would run a sweep
            raise WrongUsage("the doctor checks one run. Leave out -m, --multirun and study=…")
        with lossy():
            print("\n".join([PAGE.format(command=command("doctor"), train=command("train")), *foot()]))

    return framed("doctor", work)

"""Starts a command whose configuration Hydra composes, or says which package is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from loaderlab.cli.frame import framed
from loaderlab.system.extras import require
from loaderlab.system.program import command

T = TypeVar("T")
# every run and every comparison needs these
NEEDED = ("hydra", "omegaconf", "mlflow", "matplotlib", "jinja2", "filelock", "PIL")


def composed(
    config_name: str,
    kind: type[T],
    job: Callable[[T, list[str]], None],
    arguments: Sequence[str],
    command_name: str = "",
) -> int:
    """The exit code of `loaderlab.cli.main.main`, which imports Hydra.

    Args:
        config_name, kind, job, arguments: see `loaderlab.cli.main.main`.
        command_name: the command, if its name differs from the configuration's.
    """
    name = command_name or config_name
    if code := framed(name, lambda: require(command(name), *NEEDED)):
        return code
    from loaderlab.cli.main import main

    return main(config_name, kind, job, arguments)

"""The program ``loaderlab``, which starts the module of this folder that has the command's name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from loaderlab import __version__
from loaderlab.cli.frame import framed
from loaderlab.cli.page import foot
from loaderlab.config import WrongUsage
from loaderlab.system.processes import leave
from loaderlab.system.similar_names import nearest
from loaderlab.system.streams import lossy

COMMANDS = {
    "train": "measures and records one training run; with -m a sweep of runs",
    "tune": "finds the cheapest settings of a loader that keep the device fed",
    "watch": "runs any training script and says whether its loaders starve it",
    "compare": "compares recorded runs in a table, pictures and a page",
    "trace": "reads from a trace of PyTorch's profiler whether the GPU was starved",
    "ui": "starts the MLflow UI with the recorded runs",
    "server": "starts a tracking server for the runs of several machines",
    "sync": "sends to a tracking server what runs could not send",
    "doctor": "checks whether a long run would fail on this machine",
}


def start(arguments: Sequence[str]) -> int:
    """The exit code of a command, after running it.

    Args:
        arguments: everything typed after ``loaderlab``: the command and its arguments.
    """
    if arguments and arguments[0] in COMMANDS:
        return int(importlib.import_module(f"loaderlab.cli.{arguments[0]}").start(arguments[1:]))

    def work() -> None:
        match arguments:
            case ["--version", *_]:
                text = f"loaderlab {__version__}"
            case [] | ["-h" | "--help" | "help", *_]:
                text = page()
            case [unknown, *_]:
                hint = nearest(unknown, list(COMMANDS))
                raise WrongUsage(f"{unknown}: there is no such command.{hint} Commands: {', '.join(COMMANDS)}")
        with lossy():
            print(text)
        if not arguments:
            raise WrongUsage(f"a command is needed. Type for example: {_program()} train --help")

    return framed("", work)


def page() -> str:
    """The text of ``loaderlab --help``."""
    lines = [
        "loaderlab: is the GPU starved by its input pipeline, by how much, and what removes the wait?",
        "",
        f"  {_program()} COMMAND [...]",
        "",
        "Commands (COMMAND --help shows the settings of each)",
        *(f"  {name:<9}{text}" for name, text in COMMANDS.items()),
    ]
    return "\n".join([*lines, *foot()])


def _program() -> str:
    return "python -m loaderlab" if sys.argv[0].endswith("__main__.py") else "loaderlab"


def entry() -> NoReturn:
    """Starts the console script."""
    leave(start(sys.argv[1:]))

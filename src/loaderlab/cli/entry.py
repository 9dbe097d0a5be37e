"""The program ``loaderlab``: one command for each module of this folder that is named after it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from loaderlab import __version__
from loaderlab.cli.frame import framed
from loaderlab.cli.page import foot
from loaderlab.cli.setting_texts import nearest
from loaderlab.config import WrongUsage
from loaderlab.system.processes import leave
from loaderlab.system.streams import lossy

COMMANDS = {
    "train": "one training run, measured and recorded; with -m a sweep of them",
    "compare": "recorded runs side by side, as a table, pictures and a page",
    "trace": "was the GPU starved? Read from a trace of PyTorch's profiler",
    "ui": "the MLflow UI on the recorded runs",
    "doctor": "would a long run fail on this machine?",
}


def start(arguments: Sequence[str]) -> int:
    """Runs a command, and returns its exit code.

    Args:
        arguments: what was typed after ``loaderlab``: the command and its arguments.
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
    """The page of ``loaderlab --help``."""
    lines = [
        "loaderlab: is the GPU starved by its input pipeline, by how much, and what ends it?",
        "",
        f"  {_program()} COMMAND [name=value ...]",
        "",
        "Commands (COMMAND --help shows the settings of each)",
        *(f"  {name:<9}{text}" for name, text in COMMANDS.items()),
    ]
    return "\n".join([*lines, *foot()])


def _program() -> str:
    return "python -m loaderlab" if sys.argv[0].endswith("__main__.py") else "loaderlab"


def entry() -> NoReturn:
    """What the console script calls."""
    leave(start(sys.argv[1:]))

"""``loaderlab watch script.py``: measures how a program's loaders feed its training, without changing it. Needs no extra."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loaderlab.attach.finish import Outputs, Watched
from loaderlab.attach.script import Program, run
from loaderlab.cli.exit_table import lines as exit_lines
from loaderlab.cli.frame import failed
from loaderlab.cli.setting_texts import nearest
from loaderlab.config import ExitCode, UserError, WrongUsage
from loaderlab.system.program import command
from loaderlab.system.streams import lossy

EXAMPLES = (
    ("train.py --epochs 3", "the verdict on train.py, at its end, on stderr"),
    ("-m package.train --epochs 3", "the same for a module, as with python -m"),
    ("--record baseline train.py", "also an MLflow run named baseline"),
    ("--fail-if-starved 10 train.py", "a gate: exit code 3 if it is starved more than 10 % of the time"),
)


@dataclass(frozen=True)
class Option:
    """An option with a value."""

    value: str
    text: str
    read: Callable[[str, str], Any]


def _text(name: str, value: str) -> str:
    if not value.strip():
        raise WrongUsage(f"{name}: must not be empty")
    return value


def _path(name: str, value: str) -> Path:
    path = Path(_text(name, value))
    if path.is_dir():
        raise WrongUsage(f"{name} {value}: is a folder. Type the path of a file")
    if path.exists() and not path.is_file():
        raise WrongUsage(
            f"{name} {value}: is not a regular file, and its content would be replaced. Type the path of a file"
        )
    return Path(os.path.abspath(value))  # the script may change the working folder


def _percent(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 100:
        raise WrongUsage(
            f"{name} {value}: must be 0 to 100, a share of the time in percent. Type for example: {name} 10"
        )
    return number


def _count(name: str, value: str) -> int:
    number = int(value) if value.isascii() and value.isdigit() else 0
    if number < 1:
        raise WrongUsage(f"{name} {value}: must be a whole number of at least 1. Type for example: {name} 500")
    return number


OPTIONS = {
    "--record": Option("NAME", "record the result as an MLflow run with this name (needs the extra suite)", _text),
    "--uri": Option("URI", "MLflow store of that run; default: mlruns/mlflow.db", _text),
    "--experiment": Option("NAME", "MLflow experiment of that run; default: loaderlab", _text),
    "--json": Option("FILE", "write the result as JSON", _path),
    "--html": Option("FILE", "write the result as an HTML page", _path),
    "--fail-if-starved": Option(
        "PCT", "exit code 3 if the training is starved of data more than PCT % of the time", _percent
    ),
    "--steps": Option("N", "stop measuring after N optimizer steps; the script continues", _count),
}


def start(arguments: Sequence[str]) -> int:
    """Runs the command. It ends with the exception or the exit code of the script; returns only if no script was started."""
    try:
        values, program = read(arguments)
        if program is None:
            with lossy():
                print(page())
            return ExitCode.SUCCESS
        program.checked()
        steps = values.pop("steps", None)
        rank = os.environ.get("RANK", "0")
        watched = Watched(
            program.name,
            [program.name, *program.arguments],
            steps,
            Outputs(**values),
            int(rank) if rank.isdigit() else 0,
        )
        watched.start()
    except UserError as error:
        return failed(f"{error}", error.exit_code)
    run(program, watched.ended, watched.give_up)
    raise SystemExit(ExitCode.SUCCESS)


def read(arguments: Sequence[str]) -> tuple[dict[str, Any], Program | None]:
    """The options' values, and the program; None if help is asked for.

    Raises:
        WrongUsage: an unknown option, a value that is not allowed, no script.
    """
    values: dict[str, Any] = {}
    rest = [*arguments]
    while rest:
        argument = rest.pop(0)
        if argument == "--" and rest:
            return _checked(values), Program(rest[0], False, rest[1:])
        if argument in ("-h", "--help"):
            return {}, None
        if argument == "-m":
            if not rest:
                raise WrongUsage(
                    f"-m: the name of a module must follow. Type for example: {command('watch')} -m package.train"
                )
            return _checked(values), Program(rest[0], True, rest[1:])
        if not argument.startswith("-") or argument == "-":
            return _checked(values), Program(argument, False, rest)
        name, equals, value = argument.partition("=")
        if name not in OPTIONS:
            raise WrongUsage(
                f"{name}: there is no such option.{nearest(name, list(OPTIONS))} Options of loaderlab stand before the script, those of "
                "the script after it"
            )
        if not equals:
            if not rest:
                raise WrongUsage(f"{name}: its value {OPTIONS[name].value} is missing")
            value = rest.pop(0)
        key = name.removeprefix("--").replace("-", "_")
        values["fail_if_starved_pct" if key == "fail_if_starved" else key] = OPTIONS[name].read(name, value)
    raise WrongUsage(f"the script is missing. Type: {command('watch')} train.py")


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    if values.get("json") is not None and values.get("json") == values.get("html"):
        raise WrongUsage(f"--html {values['html']}: is the file of --json too. Type another path")
    for name in ("uri", "experiment"):
        if name in values and "record" not in values:
            raise WrongUsage(f"--{name}: is only for --record. Type for example: --record baseline")
    return values


def page() -> str:
    """The text of ``--help``."""
    own = command("watch")
    width = max(len(f"{name} {option.value}") for name, option in OPTIONS.items())
    lines = [
        "loaderlab: runs a training script as it is, and says whether its loaders starve the device",
        "",
        f"  {own} [options] script.py args…",
        f"  {own} [options] -m package.module args…",
        "",
        *(f"  {f'{own} {arguments}':<{len(own) + 34}}{text}" for arguments, text in EXAMPLES),
        "  torchrun --nproc-per-node=8 -m loaderlab watch train.py   rank 0 names the slow rank",
        "",
        "Options (before the script; everything after it belongs to the script)",
        *(f"  {f'{name} {option.value}':<{width + 2}}{option.text}" for name, option in OPTIONS.items()),
        "",
        *exit_lines(),
        "The script's own exit code comes first: the gate's is used only if the script ends with 0.",
    ]
    return "\n".join(lines)

"""``loaderlab watch script.py``: measures how a program's loaders feed its training, without changing it. Needs no extra."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from loaderlab.attach.finish import Outputs, Watched
from loaderlab.attach.script import Program, run
from loaderlab.attach.script_options import (
    Option,
    count,
    flag,
    option_lines,
    path,
    percent,
    read_arguments,
    refuse_one_file,
    text,
)
from loaderlab.cli.exit_table import lines as exit_lines
from loaderlab.cli.frame import failed
from loaderlab.config import ExitCode, UserError, WrongUsage
from loaderlab.system.extras import require
from loaderlab.system.program import command
from loaderlab.system.streams import lossy

EXAMPLES = (
    ("train.py --epochs 3", "the verdict on train.py, at its end, on stderr"),
    ("-m package.train --epochs 3", "the same for a module, as with python -m"),
    ("--record baseline train.py", "also an MLflow run named baseline"),
    ("--profile-workers train.py", "also the slowest line of the loader"),
    ("--fail-if-starved 10 train.py", "a gate: exit code 3 if it is starved more than 10 % of the time"),
)


OPTIONS = {
    "--record": Option("NAME", "record the result as an MLflow run with this name (needs the extra suite)", text),
    "--uri": Option("URI", "MLflow store of that run; default: mlruns/mlflow.db", text),
    "--experiment": Option("NAME", "MLflow experiment of that run; default: loaderlab", text),
    "--json": Option("FILE", "write the result as JSON", path),
    "--html": Option("FILE", "write the result as an HTML page", path),
    "--profile-workers": Option(
        "", "also name the slow lines of the loader: sample one worker for 5 s, whose steps are not measured", flag
    ),
    "--fail-if-starved": Option(
        "PCT", "exit code 3 if the training is starved of data more than PCT % of the time", percent
    ),
    "--steps": Option("N", "stop measuring after N optimizer steps; the script continues", count),
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
    values, program = read_arguments(arguments, "watch", OPTIONS)
    return _checked(values), program


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    refuse_one_file(values)
    for name in ("uri", "experiment"):
        if name in values and "record" not in values:
            raise WrongUsage(f"--{name}: is only for --record. Type for example: --record baseline")
    if "profile_workers" in values and ({"html", "record"} & set(values)):
        require("--profile-workers with --html or --record", "pyinstrument")
    if "fail_if_starved" in values:
        values["fail_if_starved_pct"] = values.pop("fail_if_starved")
    return values


def page() -> str:
    """The text of ``--help``."""
    own = command("watch")
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
        *option_lines(OPTIONS),
        "",
        *exit_lines(),
        "The script's own exit code comes first: the gate's is used only if the script ends with 0.",
    ]
    return "\n".join(lines)

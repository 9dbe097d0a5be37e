"""``loaderlab tune script.py``: the cheapest settings of a script's training loader that keep its device fed, without changing the script."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from loaderlab.attach.script import Program
from loaderlab.attach.script_options import (
    Option,
    count,
    count_or_0,
    flag,
    option_lines,
    path,
    percent,
    positive,
    read_arguments,
    refuse_one_file,
    text,
)
from loaderlab.config import ExitCode, TrackingConfig, TuneConfig, UserError, WrongUsage
from loaderlab.config.exit_codes import MEANINGS
from loaderlab.system.processes import Terminated, sigterm_raises
from loaderlab.system.program import command
from loaderlab.system.streams import lossy
from loaderlab.system.terminal import Terminal
from loaderlab.tuning.answer_files import AnswerFiles
from loaderlab.tuning.on_terminal import show
from loaderlab.tuning.scratch_copy import Plan, linked_text, planned
from loaderlab.tuning.script_order import LEAST_NEEDED
from loaderlab.tuning.settings import override_of
from loaderlab.tuning.trial import LEAST_STEPS

OPTIONS = {
    "--steps": Option("N", "stop each start of the script after N optimizer steps at the latest", count),
    "--minutes": Option("M", "time limit of the search and its confirmation together; default: 3", positive),
    "--max-starved": Option("PCT", "fed: starved for less than PCT % of the time; default: 5", percent),
    "--max-makers": Option("N", "largest number of workers; default: as many as the cores can use", count_or_0),
    "--yes": Option("", "start without asking", flag),
    "--json": Option("FILE", "write the answer as JSON", path),
    "--html": Option("FILE", "write the answer as an HTML page", path),
    "--record": Option("NAME", "record the answer as an MLflow run with this name (needs the extra suite)", text),
    "--uri": Option("URI", "MLflow store of that run; default: mlruns/mlflow.db", text),
    "--experiment": Option("NAME", "MLflow experiment of that run; default: loaderlab", text),
}
WARNING = (
    "loaderlab: {name} will be started several times, each time with other settings of its training loader, in a copy of {folder}, and stopped "
    "after some steps. What it writes elsewhere (absolute paths, a tracking server, a database) is written each time"
)


def start(arguments: Sequence[str]) -> int:
    """The exit code of the command, after running it.

    Args:
        arguments: options, then the script or ``-m module``, then its arguments.
    """
    try:
        values, program = read_arguments(arguments, "tune", OPTIONS)
        if program is None:
            with lossy():
                print(page())
            return ExitCode.SUCCESS
        refuse_one_file(values)
        with sigterm_raises() as received:
            was_interrupted = _tune(program, values, arguments)
        if received:
            raise Terminated
        if was_interrupted:
            raise KeyboardInterrupt
        return ExitCode.SUCCESS
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        print("\ninterrupted", file=sys.stderr)
        return int(getattr(interrupt, "exit_code", ExitCode.INTERRUPTED))


def _tune(program: Program, values: dict[str, Any], arguments: Sequence[str]) -> bool:
    """Searches, and prints the answer; its files follow, so that an error there loses nothing. Returns whether the search was interrupted.

    Args:
        arguments: of the command, as typed.

    Raises:
        UserError: the script cannot be tuned, a file cannot be written, or the answer cannot be recorded.
    """
    program.checked("tune")
    config, folder = _config(values), Path.cwd()
    files = AnswerFiles(program.name, values.get("json"), values.get("html"))
    if os.environ.get("WORLD_SIZE", "") not in ("", "0", "1"):
        raise WrongUsage("loaderlab tune starts a script itself, and not under torchrun: start it without a launcher")
    files.checked()
    record, tracking = values.get("record"), _tracking(values)
    plan = planned(folder)
    _warn(program, folder, plan, None if values.get("yes") else arguments)
    from loaderlab.tuning.script_engine import ScriptEngine  # torch: after the arguments were checked
    from loaderlab.tuning.tuned import answered, code_of
    from loaderlab.tuning.user_record import prepared, record_or_refuse

    if record is not None:
        prepared(tracking)  # refuses before the search what would fail after it
    engine, terminal = ScriptEngine(program, folder, plan, values.get("steps")), Terminal()
    terminal.say(
        f"first start: {program.name} with the settings now, until {LEAST_STEPS} or more of its steps are measured"
    )
    try:
        answer = answered(engine, config, None).answer
        made_at = engine.made_at
    finally:
        engine.close()
    with (
        ExitStack() as later
    ):  # each one runs even if another one fails: the reader of stdout may have ended, as in `… | head`
        later.callback(files.write, answer)
        later.callback(show, answer, terminal, override_of, code_of(answer))
        later.callback(terminal.say, f"loader: DataLoader made at {made_at}")
        if record is not None:
            terminal.say(record_or_refuse(record, answer, tracking))
    return answer.interrupted


def _config(values: dict[str, Any]) -> TuneConfig:
    """The settings of the tuner.

    Raises:
        WrongUsage: a share that cannot be a limit, or too few steps.
    """
    steps = values.get("steps", LEAST_NEEDED)
    if steps < LEAST_NEEDED:
        raise WrongUsage(
            f"--steps {steps}: a trial needs at least {LEAST_NEEDED} steps, {LEAST_STEPS} of them to measure. Type for example: --steps 100"
        )
    limit = values.get("max_starved", 5.0)
    if not 0 < limit < 100:
        raise WrongUsage(f"--max-starved {limit:g}: must be above 0 and below 100. Type for example: --max-starved 5")
    return TuneConfig(minutes=values.get("minutes", 3.0), max_starved_pct=limit, max_makers=values.get("max_makers"))


def _tracking(values: dict[str, Any]) -> TrackingConfig:
    """Where the answer is recorded.

    Raises:
        WrongUsage: a place, but no name.
    """
    chosen = {name: values[name] for name in ("uri", "experiment") if name in values}
    if chosen and "record" not in values:
        raise WrongUsage(f"--{next(iter(chosen))}: is only for --record. Type for example: --record tuned")
    return TrackingConfig(**chosen)


def _warn(program: Program, folder: Path, plan: Plan, unconfirmed: Sequence[str] | None) -> None:
    """Says once what will happen.

    Args:
        unconfirmed: the arguments of the command, as typed; None: with ``--yes``.

    Raises:
        WrongUsage: a person types at a terminal, and has not confirmed it.
    """
    lines = [WARNING.format(name=program.name, folder=folder), linked_text(plan)]
    print("\n  ".join(line + "." for line in lines if line), file=sys.stderr)
    if unconfirmed is not None and sys.stdin is not None and sys.stdin.isatty():
        raise WrongUsage(
            f"the script was not started. If that is what you want: {command('tune')} {shlex.join(['--yes', *unconfirmed])}"
        )


def page() -> str:
    """The text of ``--help``."""
    own = command("tune")
    lines = [
        "loaderlab: runs a training script several times, and finds the cheapest settings of its loader that keep the device fed",
        "",
        f"  {own} [options] script.py args…",
        f"  {own} [options] -m package.module args…",
        "",
        "Options (before the script; everything after it belongs to the script)",
        *option_lines(OPTIONS),
        "",
        "Exit codes",
        *(f"  {code:<5}{meaning}" for code, meaning in MEANINGS.items()),
    ]
    return "\n".join(lines)

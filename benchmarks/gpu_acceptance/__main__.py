"""Runs all measurements that need a GPU, in one command.

    python -m benchmarks.gpu_acceptance                      # all parts, at most 8 minutes each
    python -m benchmarks.gpu_acceptance --parts fed tests    # only these, and the machine
    python -m benchmarks.gpu_acceptance --total 25           # the parts that fit into 25 minutes
    python -m benchmarks.gpu_acceptance --cpu                # a trial run: the same parts at a small size, without a GPU

All results stay in the folder (`--folder`). If the command was interrupted, type it again and it continues: finished parts
are not repeated, an interrupted sweep runs only its missing jobs, and tests that passed are not run again. The page in
docs/results/ is written from the results that exist and names the missing ones; a trial run never writes a page. Ctrl-C ends
the current part and writes the page. Exit code 0: all requested parts are done and every test passed.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from pathlib import Path

from filelock import FileLock, Timeout

from benchmarks.gpu_acceptance.parts import PARTS, Setting
from benchmarks.harness.options import number_above_0
from loaderlab.config import PROJECT, UserError
from loaderlab.system.processes import Terminated, sigterm_raises


def file_name(text: str) -> str:
    """The text, if it consists of letters, digits, dots, dashes and underscores."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text}: must consist of letters, digits, dots, dashes and underscores")
    return text


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_acceptance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [part.name for part in PARTS]
    parser.add_argument("--minutes", type=number_above_0, default=8, help="most minutes for each part (8)")
    parser.add_argument(
        "--total",
        type=number_above_0,
        help="minutes for all parts together; parts that do not fit are left for the next run",
    )
    parser.add_argument(
        "--parts", nargs="+", choices=names, default=names, metavar="PART", help=f"any of: {' '.join(names)}"
    )
    parser.add_argument("--cpu", action="store_true", help="a small trial run without a GPU")
    parser.add_argument(
        "--folder", type=Path, help="folder of all results (outputs/gpu_acceptance; with _cpu for a trial run)"
    )
    parser.add_argument("--name", type=file_name, help="name of the page in docs/results (the GPU's)")
    parser.add_argument("--ladder", action="store_true", help="put this machine's ladder into docs/results.md")
    chosen = parser.parse_args()

    from benchmarks.gpu_acceptance import publish
    from loaderlab.device.resolve import driver_gpus

    folder = chosen.folder or PROJECT / "outputs" / f"gpu_acceptance{'_cpu' * chosen.cpu}"
    setting = Setting(folder.resolve(), chosen.cpu)
    try:
        if not chosen.cpu and driver_gpus() is None:
            raise UserError(
                "there is no GPU, and these measurements need one. For a trial run of the same parts add --cpu"
            )
        try:
            setting.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--folder {setting.folder}: cannot be written: {error.strerror}") from None
        with FileLock(setting.folder / "lock", timeout=0):
            requested = ["environment", *(name for name in chosen.parts if name != "environment")]
            signal_code = run_parts(setting, requested, chosen.minutes, chosen.total)
            code = publish.conclude(setting, requested, chosen.name, chosen.ladder)
            return code if signal_code is None else signal_code
    except Timeout:
        message = f"another run uses {setting.folder}. Choose another folder with --folder"
    except UserError as error:
        message = str(error)
    print(f"error: {message}", file=sys.stderr)
    return 1


def run_parts(setting: Setting, requested: list[str], minutes: float, total: float | None) -> int | None:
    """Runs the requested parts that are not done yet, the machine first: without it, no other part runs.

    Returns:
        The exit code after Ctrl-C or SIGTERM; None if no signal came.
    """
    from benchmarks.gpu_acceptance import running

    deadline = math.inf if total is None else time.monotonic() + 60 * total
    for part in PARTS:
        if part.name not in requested:
            continue
        if running.state_of(setting, part).status == "done":
            print(f"{part.name:<20} already done", flush=True)
            continue
        minutes_left = (deadline - time.monotonic()) / 60
        if minutes_left <= 0:
            print(f"{part.name:<20} not started: no time is left", flush=True)
            continue
        print(f"{part.name:<20} {part.title} ...", flush=True)
        try:
            with sigterm_raises():
                turn = running.run(setting, part, min(minutes, minutes_left)).turns[-1]
        except KeyboardInterrupt as interrupt:
            print(f"{'':<20} interrupted; its results so far are kept", flush=True)
            return interrupt.exit_code if isinstance(interrupt, Terminated) else 130
        hint = f": see {setting.folder / part.name}/output.txt" if turn.status == "failed" else ""
        print(f"{'':<20} {turn.status} after {turn.seconds} s{hint}", flush=True)
        if part.name == "environment" and turn.status != "done":
            break
    return None


if __name__ == "__main__":
    sys.exit(main())

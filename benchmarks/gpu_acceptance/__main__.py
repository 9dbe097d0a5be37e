"""Everything that only a GPU can show, in one command.

    python -m benchmarks.gpu_acceptance                      # all parts, each at most 8 minutes
    python -m benchmarks.gpu_acceptance --parts fed tests    # some of them, and the machine
    python -m benchmarks.gpu_acceptance --total 25           # what fits into 25 minutes
    python -m benchmarks.gpu_acceptance --cpu                # a dry run: the same parts, small, without a GPU

What has been measured stays in the folder (`--folder`), so a command that was ended goes on where it was when it is typed
again: parts that are done are not repeated, a sweep that was cut runs only its missing jobs, tests that have passed are not
run again. The page is written to docs/results/ from whatever is there, what is missing said by name; a dry run never writes
one. Ctrl-C ends the present part and writes the page. Exit code 0: all parts that were asked for are done and every test
passed.
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
    """Of letters, digits, dots, dashes and underlines."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text}: must be made of letters, digits, dots, dashes and underlines")
    return text


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_acceptance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [part.name for part in PARTS]
    parser.add_argument("--minutes", type=number_above_0, default=8, help="of each part at most (8)")
    parser.add_argument(
        "--total", type=number_above_0, help="of all parts together: those that no longer fit wait for the next time"
    )
    parser.add_argument(
        "--parts", nargs="+", choices=names, default=names, metavar="PART", help=f"of: {' '.join(names)}"
    )
    parser.add_argument("--cpu", action="store_true", help="a dry run without a GPU")
    parser.add_argument(
        "--folder", type=Path, help="where everything is kept (outputs/gpu_acceptance; _cpu of a dry run)"
    )
    parser.add_argument("--name", type=file_name, help="of the page under docs/results (the GPU's)")
    parser.add_argument("--ladder", action="store_true", help="put this machine's ladder into docs/results.md")
    chosen = parser.parse_args()

    from benchmarks.gpu_acceptance import page
    from loaderlab.device.resolve import driver_gpus

    folder = chosen.folder or PROJECT / "outputs" / f"gpu_acceptance{'_cpu' * chosen.cpu}"
    setting = Setting(folder.resolve(), chosen.cpu)
    try:
        if not chosen.cpu and driver_gpus() is None:
            raise UserError("there is no GPU here, and only a GPU can show this. A dry run of the same parts: --cpu")
        try:
            setting.folder.mkdir(parents=True, exist_ok=True)
        except OSError as told:
            raise UserError(f"--folder {setting.folder}: cannot be written: {told.strerror}") from None
        with FileLock(setting.folder / "lock", timeout=0):
            asked = ["environment", *(name for name in chosen.parts if name != "environment")]
            ended = course(setting, asked, chosen.minutes, chosen.total)
            code = page.conclude(setting, asked, chosen.name, chosen.ladder)
            return code if ended is None else ended
    except Timeout:
        error = f"another run is at work in {setting.folder}. Type another folder: --folder"
    except UserError as told:
        error = str(told)
    print(f"error: {error}", file=sys.stderr)
    return 1


def course(setting: Setting, asked: list[str], minutes: float, total: float | None) -> int | None:
    """Runs what is asked for and not done yet, the machine first: the rest stops where it is not what it was taken for.

    Returns:
        The exit code of a command that was ended by Ctrl-C or SIGTERM; None where it came to its end.
    """
    from benchmarks.gpu_acceptance import running

    until = math.inf if total is None else time.monotonic() + 60 * total
    for part in PARTS:
        if part.name not in asked:
            continue
        if running.state_of(setting, part).status == "done":
            print(f"{part.name:<20} done before", flush=True)
            continue
        left = (until - time.monotonic()) / 60
        if left <= 0:
            print(f"{part.name:<20} not begun: the time is over", flush=True)
            continue
        print(f"{part.name:<20} {part.title} ...", flush=True)
        try:
            with sigterm_raises():
                turn = running.run(setting, part, min(minutes, left)).turns[-1]
        except KeyboardInterrupt as ended:
            print(f"{'':<20} ended from outside; what it has measured is kept", flush=True)
            return ended.exit_code if isinstance(ended, Terminated) else 130
        said = f": see {setting.folder / part.name}/output.txt" if turn.status == "failed" else ""
        print(f"{'':<20} {turn.status} after {turn.seconds} s{said}", flush=True)
        if part.name == "environment" and turn.status != "done":
            break
    return None


if __name__ == "__main__":
    sys.exit(main())

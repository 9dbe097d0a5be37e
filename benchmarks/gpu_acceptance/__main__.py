"""Everything that only a GPU can show, in one command.

    python -m benchmarks.gpu_acceptance                      # all parts, each at most 8 minutes
    python -m benchmarks.gpu_acceptance --parts fed tests    # some of them
    python -m benchmarks.gpu_acceptance --cpu                # a dry run: the same parts, small, without a GPU

What has been measured stays in the folder (`--folder`), so a command that was ended goes on where it was when it is typed
again: parts that are done are not repeated, a sweep that was cut runs only its missing jobs. The page is written to
docs/results/ from whatever is there, what is missing said by name; a dry run never writes one. Exit code 0: all parts that
were asked for are done and every test passed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu_acceptance import page
from benchmarks.gpu_acceptance.parts import PARTS, Part, Setting
from loaderlab.config import PROJECT
from loaderlab.environment import driver_gpus, git_commit

PATIENCE_S = 60  # for a part to end after a Ctrl-C: a sweep records what it has


def state_of(setting: Setting, part: Part) -> dict[str, object]:
    """How it went; empty where it was never begun."""
    file = setting.folder / part.name / "part.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    if found.get("device", setting.device) != setting.device:
        sys.exit(f"error: {setting.folder} holds parts of a run on {found['device']}. Type another folder: --folder {setting.folder}_{setting.device}")  # fmt: skip
    return found


def run(setting: Setting, part: Part, minutes: float) -> str:
    """Runs one part and keeps how it went: ``done``, ``failed`` or ``cut``."""
    folder = setting.folder / part.name
    folder.mkdir(parents=True, exist_ok=True)
    again = bool(part.overrides) and page.begun(setting, part) is not None
    command = part.command(setting, again)
    state: dict[str, object] = {
        "status": "cut",
        "device": setting.device,
        "command": " ".join(command[1:]),
        "commit": git_commit(PROJECT),
    }
    (folder / "part.json").write_text(json.dumps(state))  # whoever ends us: it was begun
    began = time.monotonic()
    with (folder / "output.txt").open("a") as out:
        process = subprocess.Popen(
            command, cwd=PROJECT, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, env=environment()
        )
        try:
            code = process.wait(60 * minutes)
            state["status"] = "failed" if code else "done"
            state["exit_code"] = code
        except subprocess.TimeoutExpired:
            end(process)
        except BaseException:
            end(process)
            raise
        finally:
            state["seconds"] = round(time.monotonic() - began, 1)
            (folder / "part.json").write_text(json.dumps(state))
    return str(state["status"])


def environment() -> dict[str, str]:
    """The project's source is found without an installation."""
    known = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(PROJECT / "src"), str(PROJECT), *([known] if known else [])]),
    }


def end(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_acceptance", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )  # fmt: skip
    names = [part.name for part in PARTS]
    parser.add_argument("--minutes", type=float, default=8, help="of each part at most (8)")
    parser.add_argument(
        "--parts", nargs="+", choices=names, default=names, metavar="PART", help=f"of: {' '.join(names)}"
    )
    parser.add_argument("--cpu", action="store_true", help="a dry run without a GPU")
    parser.add_argument(
        "--folder", type=Path, help="where everything is kept (outputs/gpu_acceptance; _cpu of a dry run)"
    )
    chosen = parser.parse_args()
    if not chosen.cpu and driver_gpus() is None:
        print(
            "error: there is no GPU here, and only a GPU can show this. A dry run of the same parts: --cpu",
            file=sys.stderr,
        )
        return 1
    folder = chosen.folder or PROJECT / "outputs" / f"gpu_acceptance{'_cpu' * chosen.cpu}"
    setting = Setting(folder.resolve(), chosen.cpu)
    for part in PARTS:
        if part.name not in chosen.parts:
            continue
        if state_of(setting, part).get("status") == "done":
            print(f"{part.name:<20} done before", flush=True)
            continue
        print(f"{part.name:<20} {part.title} ...", flush=True)
        status = run(setting, part, chosen.minutes)
        took = state_of(setting, part)["seconds"]
        print(f"{'':<20} {status} after {took} s" + (f": see {setting.folder / part.name}/output.txt" if status == "failed" else ""), flush=True)  # fmt: skip
    return page.conclude(setting, {part.name: state_of(setting, part) for part in PARTS}, chosen.parts)


if __name__ == "__main__":
    sys.exit(main())

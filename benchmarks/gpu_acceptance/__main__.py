"""Runs all measurements that need a GPU, in one command.

    python -m benchmarks.gpu_acceptance                      # all parts, at most 8 minutes for each stage of a part
    python -m benchmarks.gpu_acceptance --sitting 1          # those of the first sitting, within 9 minutes: 1, 2 or 3
    python -m benchmarks.gpu_acceptance --parts fed tests    # only these, and the machine
    python -m benchmarks.gpu_acceptance --page               # measures nothing: the page of the results that exist
    python -m benchmarks.gpu_acceptance --cpu                # a trial run: the same parts at a small size, without a GPU

All results stay in the folder (`--folder`). If the command was interrupted, type it again and it continues: finished parts
are not repeated, an interrupted sweep runs only its missing jobs, and tests that passed are not run again. Only the machine is
measured each time, because results of two machines are not mixed. The page in docs/results/ is written from the results that
exist and names the missing ones; a trial run never writes a page, and a sitting only with --page. Ctrl-C ends the current part
and writes the page. Exit code 0: all requested parts are done and every test passed.

A sitting is for a borrowed host. `--pack DIR` copies the results into DIR in pieces of at most 16 MiB after every part, so that
they come back even if the host is taken away; `python -m benchmarks.gpu_acceptance.packing unpack DIR` puts them back.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from benchmarks.gpu_acceptance.catalog import PARTS
from benchmarks.gpu_acceptance.folder_lock import locked
from benchmarks.gpu_acceptance.parts import Setting
from benchmarks.gpu_acceptance.sittings import SITTINGS
from benchmarks.harness.options import number_above_0
from loaderlab.config import PROJECT, UserError


def file_name(text: str) -> str:
    """The text, if it consists of letters, digits, dots, dashes and underscores."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text}: must consist of letters, digits, dots, dashes and underscores")
    return text


def main() -> int:
    """The exit code."""
    chosen = _options()

    from benchmarks.gpu_acceptance import publish
    from benchmarks.gpu_acceptance.packing import pack
    from benchmarks.gpu_acceptance.plan import requested, run_planned, undone
    from loaderlab.device.resolve import driver_gpus

    folder = chosen.folder or PROJECT / "outputs" / f"gpu_acceptance{'_cpu' * chosen.cpu}"
    setting = Setting(folder.resolve(), chosen.cpu)
    try:
        if not chosen.cpu and not chosen.page and driver_gpus() is None:
            raise UserError(
                "there is no GPU, and these measurements need one. For a trial run of the same parts add --cpu"
            )
        with locked(setting.folder):
            planned, total = ([], None) if chosen.page else requested(setting, chosen)
            after_each = None if chosen.pack is None else lambda: pack(setting.folder, chosen.pack)
            signal_code = run_planned(setting, planned, total, after_each)
            with_page = chosen.sitting is None and not chosen.cpu
            code = publish.conclude(
                setting, undone(setting, planned), chosen.name, with_page=with_page, ladder=chosen.ladder
            )
            return code if signal_code is None else signal_code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_acceptance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [part.name for part in PARTS]
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--sitting", type=int, choices=SITTINGS, help="the parts of one sitting, within 9 minutes")
    what.add_argument(
        "--parts", nargs="+", choices=names, default=names, metavar="PART", help=f"any of: {' '.join(names)}"
    )
    what.add_argument("--page", action="store_true", help="measure nothing, only write the page")
    parser.add_argument("--minutes", type=number_above_0, default=8, help="most minutes for each stage of a part (8)")
    parser.add_argument(
        "--total",
        type=number_above_0,
        help="minutes for all parts together; parts that do not fit are left for the next run",
    )
    parser.add_argument("--cpu", action="store_true", help="a small trial run without a GPU")
    parser.add_argument(
        "--folder", type=Path, help="folder of all results (outputs/gpu_acceptance; with _cpu for a trial run)"
    )
    parser.add_argument("--pack", type=Path, metavar="DIR", help="copy the results into DIR after every part")
    parser.add_argument("--name", type=file_name, help="name of the page in docs/results (the GPU's)")
    parser.add_argument("--ladder", action="store_true", help="put this machine's ladder into docs/results.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

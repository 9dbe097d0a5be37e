"""``loaderlab sync``: sends to tracking servers what runs could not send."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from loaderlab.cli import exit_table
from loaderlab.cli.frame import framed
from loaderlab.config import INSTALLED, Failed, UserError, store_root
from loaderlab.system.extras import require
from loaderlab.system.program import command

FOLDER = Path("mlruns") / "unsent"


def start(arguments: Sequence[str]) -> int:
    """The exit code: 1 if something could not be sent; it is kept.

    Raises:
        SystemExit: ``--help``, or an unknown option (exit code 2).
    """
    where = "the working folder" if INSTALLED else "this checkout"
    parser = argparse.ArgumentParser(
        prog=command("sync"),
        description="Sends to tracking servers what runs could not send. What is not accepted stays on disk.",
        epilog="\n".join(exit_table.lines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dir", type=Path, metavar="FOLDER", help=f"default: {FOLDER} of {where}")
    chosen: Path | None = parser.parse_args(arguments).dir
    return framed("sync", lambda: send_all(chosen))


def send_all(folder: Path | None) -> None:
    """Sends everything and prints a line for each run.

    Raises:
        UserError: there is no such folder.
        Failed: something could not be sent.
    """
    require(command("sync"), "mlflow")
    if folder is not None and not folder.is_dir():
        raise UserError(f"--dir={folder}: there is no such folder. Type: {command('sync')} --dir {FOLDER}")
    folder = folder or store_root() / FOLDER
    num_sent = num_left = num_runs = 0
    if folder.is_dir():  # importing MLflow takes seconds
        from loaderlab.tracking.sync import sync

        for run in sync(folder):
            print(run, flush=True)
            num_sent, num_left, num_runs = num_sent + run.num_sent, num_left + run.num_left, num_runs + 1
    if num_left:
        again = command("sync") if folder == store_root() / FOLDER else f"{command('sync')} --dir {folder}"
        raise Failed(f"{num_left} records could not be sent. They are kept in {folder}. To try again, type: {again}")
    print(f"all sent: {num_sent} records of {num_runs} runs" if num_runs else f"nothing to send in {folder}")

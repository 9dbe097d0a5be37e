"""Checks that a refactoring left the recorded output equal: runs a small sweep of each checkout and compares every field.

    python benchmarks/record_equality.py record --checkout DIR --to FOLDER
    python benchmarks/record_equality.py compare BEFORE AFTER

``record`` runs the checkout's own code with this Python: a sweep of two loaders and three repeats on the digits, then a
comparison of its arms. FOLDER then contains the store, the files and ``records.json``: all metrics, params, tags, artifacts
and the comparison's files, masked where two runs of the same code differ (the rules are in ``benchmarks/harness/masks.py``).
It takes about two minutes on two cores; the checkout must not change meanwhile. ``compare`` prints every field that differs,
and its exit code is 1 if there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SWEEP = ("loader=native,dali", "repeat=1,2,3", "epochs=1", "data=digits")
RECORDS = "records.json"


def record(checkout: Path, folder: Path) -> None:
    """Runs the sweep and the comparison of a checkout, and writes their record into a new folder."""
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"  # read when MLflow is imported
    from benchmarks.harness.recorded_output import counts, dump

    checkout, folder = checkout.resolve(), folder.resolve()
    if not (checkout / "experiments").is_dir():
        raise SystemExit(f"error: --checkout {checkout}: this is not a checkout of loaderlab")
    if folder.exists() and any(folder.iterdir()):
        raise SystemExit(f"error: --to {folder}: the folder is not empty. Name another one or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    uri = f"sqlite:///{folder}/mlflow.db"
    store = [f"tracking.uri={uri}"]
    _run(checkout, folder, "train", ["-m", *SWEEP, f"data.root={folder}/digits", *store])
    _run(checkout, folder, "compare", [f"output={folder}/report", *store])
    places = {str(folder): "<folder>", str(checkout): "<checkout>"}
    dumped = dump(uri, folder / "report", places)
    (folder / RECORDS).write_text(json.dumps(dumped, indent=1) + "\n", encoding="utf-8")
    print("recorded: {} fields of {} runs and {} files".format(*counts(dumped)))


def _run(checkout: Path, folder: Path, program: str, arguments: Sequence[str]) -> None:
    """Runs one of the checkout's programs with its output in a file; if it fails, this program ends with an error."""
    output = folder / f"{program}.txt"
    environment = os.environ | {"PYTHONPATH": f"{checkout}/src", "XDG_CACHE_HOME": f"{folder}/cache"}
    command = [sys.executable, "-m", f"experiments.{program}", *arguments]
    with output.open("w", encoding="utf-8") as file:
        done = subprocess.run(command, cwd=checkout, env=environment, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"error: experiments.{program} of {checkout} ended with {done.returncode}: see {output}")


def compare(before: Path, after: Path) -> int:
    """The exit code: 1 if a field differs. Prints each such field."""
    from benchmarks.harness.recorded_output import counts, differences

    first, second = _read(before), _read(after)
    different = differences(first, second)
    for text in different:
        print(text)
    size = "{} fields of {} runs and {} files".format(*counts(first))
    print(f"different: {len(different)} of {size}" if different else f"equal: {size}")
    return 1 if different else 0


def _read(folder: Path) -> dict[str, Any]:
    try:
        dumped: dict[str, Any] = json.loads((folder / RECORDS).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise SystemExit(f"error: {folder / RECORDS} cannot be read: {error}") from None
    return dumped


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="run the sweep of a checkout and store its record")
    recording.add_argument("--checkout", type=Path, required=True, help="the folder of the code to run")
    recording.add_argument(
        "--to", type=Path, required=True, help="a new folder for the store, the files and the records"
    )
    comparing = commands.add_parser("compare", help="compare the records of two folders")
    comparing.add_argument("before", type=Path, help="a folder that `record` wrote")
    comparing.add_argument("after", type=Path, help="another such folder")
    chosen = parser.parse_args(arguments)
    if chosen.command == "compare":
        return compare(chosen.before, chosen.after)
    record(chosen.checkout, chosen.to)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # started by its path, Python imports only from this file's folder
    sys.exit(main())

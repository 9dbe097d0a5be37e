"""Did a refactoring leave the recorded output alike? A small sweep of each checkout, compared field by field.

    python benchmarks/record_equality.py record --checkout DIR --to FOLDER
    python benchmarks/record_equality.py compare BEFORE AFTER

``record`` runs the checkout's own code with this Python: a sweep of two loaders and three repeats on the digits, then the
comparison of it. FOLDER keeps the store, the files and ``records.json``: all metrics, params, tags, artifacts and the
comparison's files, masked where two runs of the same code differ (the rules: ``benchmarks/harness/masks.py``). It takes
about two minutes on two cores, in which the checkout must not change. ``compare`` prints every field that differs and exits
with 1 if there is one.
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
    """Runs the sweep and the comparison of a checkout into a new folder, and writes what they recorded."""
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"  # read when MLflow is imported
    from benchmarks.harness.recorded_output import counts, dump

    checkout, folder = checkout.resolve(), folder.resolve()
    if not (checkout / "experiments").is_dir():
        raise SystemExit(f"error: --checkout {checkout}: is no checkout of loaderlab")
    if folder.exists() and any(folder.iterdir()):
        raise SystemExit(f"error: --to {folder}: holds something already. Name another folder or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    uri = f"sqlite:///{folder}/mlflow.db"
    own = [f"tracking.uri={uri}"]
    _run(checkout, folder, "train", ["-m", *SWEEP, f"data.root={folder}/digits", *own])
    _run(checkout, folder, "compare", [f"output={folder}/report", *own])
    places = {str(folder): "<folder>", str(checkout): "<checkout>"}
    dumped = dump(uri, folder / "report", places)
    (folder / RECORDS).write_text(json.dumps(dumped, indent=1) + "\n", encoding="utf-8")
    print("recorded: {} fields of {} runs and {} files".format(*counts(dumped)))


def _run(checkout: Path, folder: Path, program: str, arguments: Sequence[str]) -> None:
    """One of the checkout's programs, what it says in a file; an error ends this one too."""
    said = folder / f"{program}.txt"
    environment = os.environ | {"PYTHONPATH": f"{checkout}/src", "XDG_CACHE_HOME": f"{folder}/cache"}
    command = [sys.executable, "-m", f"experiments.{program}", *arguments]
    with said.open("w", encoding="utf-8") as file:
        done = subprocess.run(command, cwd=checkout, env=environment, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"error: experiments.{program} of {checkout} ended with {done.returncode}: see {said}")


def compare(before: Path, after: Path) -> int:
    """Prints the fields that differ; 0 where none does."""
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
    recording = commands.add_parser("record", help="run a checkout's sweep and keep what it recorded")
    recording.add_argument("--checkout", type=Path, required=True, help="the folder of the code to run")
    recording.add_argument(
        "--to", type=Path, required=True, help="a new folder for the store, the files and the records"
    )
    comparing = commands.add_parser("compare", help="compare the records of two folders")
    comparing.add_argument("before", type=Path, help="a folder that `record` wrote")
    comparing.add_argument("after", type=Path, help="another one")
    chosen = parser.parse_args(arguments)
    if chosen.command == "compare":
        return compare(chosen.before, chosen.after)
    record(chosen.checkout, chosen.to)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # run by its path, a file finds only its own folder
    sys.exit(main())

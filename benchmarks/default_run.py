"""Times ``--help`` and the default run from start to record, and measures the memory of trainer and launcher.

    python benchmarks/default_run.py --runs 3

Each run prepares its data again and writes to a new store, in a temporary folder. Prints the median and the range of the
wall time of the whole process, and how much of it is start, loop, and the rest (evaluation and record).
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities import Run

ROOT = Path(__file__).resolve().parents[1]
TRAIN = [sys.executable, "-m", "experiments.train"]


def timed(command: Sequence[str]) -> float:
    """Seconds that the command takes."""
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def proportional_mib(pid: int) -> float:
    """Proportional set size of one process, without its children."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def recorded(folder: str) -> list[Run]:
    """All runs of the store in a folder."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("loaderlab")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def default_run(folder: str) -> dict[str, float]:
    """Seconds of a default run, in total and by part."""
    from loaderlab import metrics

    wall_s = timed([*TRAIN, f"tracking.uri=sqlite:///{folder}/mlflow.db", f"data.root={folder}/digits"])
    (run,) = recorded(folder)
    figures = run.data.metrics
    return {
        "whole command, s": wall_s,
        "loop, s": figures[metrics.TRAIN_S],
        "start to loop, with preparation, s": figures[metrics.STARTUP_S],
        "evaluation and record, s": wall_s - figures[metrics.TRAIN_S] - figures[metrics.STARTUP_S],
    }


def memory(folder: str) -> dict[str, float]:
    """Peak memory of a sweep of two jobs with two workers: a job's processes in total, and the launching process alone."""
    command = [
        *TRAIN,
        "-m",
        "repeat=1,2",
        "loader.num_workers=2",
        "epochs=4",
        f"tracking.uri=sqlite:///{folder}/mlflow.db",
    ]
    launcher = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    peak_mib = 0.0
    while launcher.poll() is None:
        time.sleep(1.0)
        try:
            peak_mib = max(peak_mib, proportional_mib(launcher.pid))
        except OSError:
            break
    if launcher.wait():
        raise SystemExit("the sweep failed")
    from loaderlab.metrics import HOST_PEAK_MIB

    job = next(run for run in recorded(folder) if HOST_PEAK_MIB in run.data.metrics)
    return {
        "trainer and two workers, MiB": job.data.metrics[HOST_PEAK_MIB],
        "launching process of a sweep, MiB": peak_mib,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    from benchmarks.harness import options

    parser = options.parser(__doc__)
    parser.add_argument(
        "--runs", type=options.count, default=3, help="number of runs, each with its own store and data"
    )
    runs = parser.parse_args(arguments).runs
    rows: dict[str, list[float]] = {"--help, s": [timed([*TRAIN, "--help"]) for _ in range(max(5, runs))]}
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            for name, value in (default_run(folder) | memory(folder)).items():
                rows.setdefault(name, []).append(value)
    print("| | n | median | min to max |\n|---|---:|---:|---:|")
    for name, values in rows.items():
        print(f"| {name} | {len(values)} | {statistics.median(values):.2f} | {min(values):.2f} to {max(values):.2f} |")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # started by its path, Python imports only from this file's folder
    main()

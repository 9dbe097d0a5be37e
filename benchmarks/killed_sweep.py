"""Kills a sweep of 2 loaders x 2 precisions x 3 repeats on the digits with SIGKILL, then resumes it.

    python -m benchmarks.killed_sweep

Checks that every job is recorded once, that nothing was lost and that the report is complete, and prints the result. Uses a
new store in a temporary folder and takes a few minutes.
"""

from __future__ import annotations

import collections
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
AXES = ["repeat=1,2,3", "loader=native,dali", "precision=fp32,bf16"]
JOBS = 12


def main(arguments: Sequence[str] | None = None) -> None:
    """Kills and resumes the sweep, then checks its records."""
    from benchmarks.harness import options

    parser = options.parser(__doc__)
    parser.add_argument("--epochs", type=options.count, default=2, help="epochs of each job")
    parser.add_argument(
        "--kill-in",
        type=int,
        choices=range(1, JOBS + 1),
        metavar="JOB",
        default=6,
        help="the job during which the launching process is killed, counted from 1",
    )
    chosen = parser.parse_args(arguments)

    from loaderlab.config import TrackingConfig
    from loaderlab.runs.chosen_runs import comparisons_of_sweep
    from loaderlab.tracking import open_store

    with tempfile.TemporaryDirectory() as folder:
        uri = f"tracking.uri=sqlite:///{folder}/mlflow.db"
        common = [f"epochs={chosen.epochs}", "measure.probe_s=0.5", uri]
        train = [sys.executable, "-m", "experiments.train", "-m"]
        out = Path(folder) / "out.txt"
        with out.open("w", encoding="utf-8") as file:
            process = subprocess.Popen([*train, *AXES, *common], cwd=ROOT, stdout=file, start_new_session=True)
        while f"job {chosen.kill_in} of {JOBS}" not in out.read_text(encoding="utf-8"):
            assert process.poll() is None, out.read_text(encoding="utf-8")
            time.sleep(0.2)
        time.sleep(5)
        process.kill()
        process.wait()
        print(f"killed in job {chosen.kill_in} of {JOBS}")
        while any(_in_group(int(entry.name), process.pid) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
            time.sleep(0.2)
        print("none of its processes is left")
        done = subprocess.run(
            [*train, "resume=latest", uri], cwd=ROOT, capture_output=True, text=True, encoding="utf-8", errors="replace"
        )
        print(done.stdout[done.stdout.rindex("job ") :])
        assert done.returncode == 0, done.stderr
        store = open_store(TrackingConfig(uri=uri.partition("=")[2]), ROOT)
        (parent,) = store.sweeps()
        children = store.runs(f"tags.`mlflow.parentRunId` = '{parent.run_id}'")
        statuses = collections.Counter(child.status for child in children)
        finished = collections.Counter(child.tags["config.hash"] for child in children if child.status == "FINISHED")
        (comparison,) = comparisons_of_sweep(store, parent.run_id)
        print(f"children: {dict(statuses)}; different finished jobs: {len(finished)}; parent {parent.status}")
        print(f"report: {[(arm.label, len(arm.runs)) for arm in comparison.arms]}, missing {comparison.missing}")
        assert set(finished.values()) == {1}
        assert len(finished) == JOBS
        assert parent.status == "FINISHED"
        assert [len(arm.runs) for arm in comparison.arms] == [3, 3, 3, 3]
        assert comparison.missing == []
        assert store.read(parent.run_id, "comparison/report.html")
        print("every job is recorded once, nothing was lost, the report is complete")


def _in_group(pid: int, group: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        return os.getpgid(pid) == group and state not in "ZX"
    except (OSError, ProcessLookupError):
        return False


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # started by its path, Python imports only from this file's folder
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    main()

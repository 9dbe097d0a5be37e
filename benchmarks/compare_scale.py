"""Times the comparison of many runs, with its page and pictures.

    python -m benchmarks.compare_scale --runs 1000 --times 3
    python -m benchmarks.compare_scale --server postgresql://user:password@host/database

Records runs of 20 arms as training does (63 settings, 45 metrics, a loss curve, 1,000 steps as an artifact) in a new
store in a temporary folder. With ``--server``, it starts `loaderlab server` with this database, and records and compares through it; the
runs stay in the database. Then times the whole command, including its start. Prints the median and the range.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from loaderlab.tracking.store import Store

ROOT = Path(__file__).resolve().parents[1]
ARMS = 20
STEPS = 1000


def steps_csv(rng: np.random.Generator) -> str:
    """The content of a ``steps.csv`` with random phase times."""
    names = ("wait", "transfer", "forward", "backward", "optimizer", "other")
    lines = ["epoch,step,num_samples,measured,loss," + ",".join(f"host_{name}_ms" for name in names)]
    for step, row in enumerate(rng.exponential(3.0, (STEPS, len(names)))):
        lines.append(f"0,{step},64,1,{2 / (1 + step / 50):.5f}," + ",".join(f"{value:.4f}" for value in row))
    return "\n".join(lines) + "\n"


def record(store: Store, count: int, folder: Path) -> None:
    """Records this many runs; ``folder`` is where their artifacts are written first."""
    import numpy as np

    from loaderlab import metrics

    rng = np.random.default_rng(0)
    (folder / "steps.csv").write_text(steps_csv(rng), encoding="utf-8")
    for index in range(count):
        arm, repeat = index % ARMS, index // ARMS
        with store.start(f"arm {arm} repeat {repeat}", None, {"arm": str(arm), "verdict": "starved"}) as run:
            settings = {
                "loader.name": "native",
                "loader.num_workers": arm,
                "batch_size": 64,
                "repeat": repeat,
                "seed": 0,
            }
            run.params([*settings.items(), *((f"optimizer.setting{number}", number) for number in range(58))])
            rate = 1000 * (1 + arm / 10) * float(np.exp(rng.normal(0, 0.03)))
            figures = {metrics.RATE: rate, metrics.CEILING_RATE: 4000.0, metrics.STEP_MS: 64e3 / rate}
            figures |= {metrics.WAIT_PCT: 30.0, metrics.HOST_PEAK_MIB: 900.0 + 50 * arm, metrics.CPU_PCT: 50.0}
            other_names = [name for name in metrics.TABLE if name not in (*figures, metrics.TRAIN_LOSS)]
            figures |= {name: float(number) for number, name in enumerate(other_names[:39])}
            for name, value in figures.items():
                run.metric(name, value, STEPS)
            for step in range(0, STEPS, 10):
                run.metric(metrics.TRAIN_LOSS, 2 / (1 + step / 50), step)
            run.artifacts(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    from benchmarks.harness import options

    parser = options.parser(__doc__)
    parser.add_argument("--runs", type=options.count, default=1000, help="number of runs to record and compare")
    parser.add_argument("--server", metavar="URI", help="compare from a tracking server with this database")
    parser.add_argument("--times", type=options.count, default=3, help="repeats of the comparison")
    chosen = parser.parse_args(arguments)

    with tempfile.TemporaryDirectory() as folder, store_of(chosen.server, Path(folder)) as uri:
        measure(Path(folder), uri, chosen.runs, chosen.times)


@contextmanager
def store_of(database: str | None, folder: Path) -> Iterator[str]:
    """The URI of a new SQLite store, or of a tracking server with a database."""
    if database is None:
        yield f"sqlite:///{folder}/mlflow.db"
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "experiments.server", "--store", database, "--port", str(port)]
    command += ["--artifacts", f"{folder}/server_artifacts"]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        uri = f"http://127.0.0.1:{port}"
        while True:
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=5).close()
                break
            except OSError:
                if server.poll() is not None:
                    raise SystemExit((folder / "server.log").read_text(encoding="utf-8")) from None
                time.sleep(0.5)
        yield uri
    finally:
        server.terminate()
        server.wait(30)


def measure(folder: Path, uri: str, num_runs: int, num_repeats: int) -> None:
    """Records runs in a new experiment, and prints how long their comparison takes."""
    from loaderlab.config import TrackingConfig
    from loaderlab.tracking import open_store

    artifacts = folder / "artifacts"
    artifacts.mkdir()
    experiment = f"compare_scale {time.strftime('%Y-%m-%d %H:%M:%S')}"
    started = time.perf_counter()
    record(open_store(TrackingConfig(uri, experiment), folder), num_runs, artifacts)
    print(f"{num_runs} runs recorded in {time.perf_counter() - started:.0f} s", flush=True)
    command = [sys.executable, "-m", "experiments.compare", "runs=all", f"tracking.uri={uri}"]
    command += [f"tracking.experiment='{experiment}'", f"output={folder}/report"]
    durations_s = []
    for _ in range(num_repeats):
        started = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        durations_s.append(time.perf_counter() - started)
        print(f"compared in {durations_s[-1]:.1f} s", flush=True)
    page_mib = (folder / "report" / "report.html").stat().st_size / 2**20
    print(
        f"median {statistics.median(durations_s):.1f} s ({min(durations_s):.1f} to {max(durations_s):.1f}, n = {len(durations_s)}), page {page_mib:.1f} MiB"
    )


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # started by its path, Python imports only from this file's folder
    main()

"""Two sweeps at once on ``loaderlab server`` with PostgreSQL, which is killed and started again: nothing is lost."""

from __future__ import annotations

import contextlib
import csv
import io
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from loaderlab.config import PROJECT, TrackingConfig
from loaderlab.tracking import open_store
from loaderlab.tracking.spool import PLACE
from loaderlab.tracking.store import Store
from loaderlab.tracking.sync import sync
from tests.engines import needs
from tests.postgres import cluster, missing
from tests.running_server import RunningServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
NUM_JOBS = 2
EPOCHS = 400
OVERRIDES = f"""
    batch_size=4,6 epochs={EPOCHS} device=cpu torch_threads=1 loader.num_workers=0 measure=bare sweep.parity=false
    data=imagefolder data.transform.image_size=16 data.transform.resize=16 tracking.log_every=1
""".split()
AWAY_S = 5.0  # how long the server stays away after a run has noticed


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    needs(missing())
    with cluster() as uri:
        running = RunningServer(uri, tmp_path)
        running.start()
        assert "secret" not in running.log()
        yield running
        running.kill()


class Sweep:
    """A sweep in its own process; its output is read as it comes."""

    def __init__(self, experiment: str, overrides: list[str]) -> None:
        self.experiment, self.lines = experiment, list[str]()
        command = [sys.executable, "-m", "experiments.train", "-m", f"tracking.experiment={experiment}", *overrides]
        self.process = subprocess.Popen(
            command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines += iter(self.process.stdout.readline, "")

    def __enter__(self) -> Sweep:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()  # it ends its job
            self.process.wait(60)
        self._reader.join(30)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def end(self) -> str:
        self.process.wait(400)
        self._reader.join(30)
        return "".join(self.lines)


def wait_for(condition: str, is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not is_true():
        assert time.monotonic() < deadline, condition
        time.sleep(0.2)


def test_nothing_is_lost_when_the_server_is_killed_under_two_sweeps(
    server: RunningServer, image_tree: Path, tmp_path: Path
) -> None:
    overrides = [*OVERRIDES, f"data.root={image_tree}", f"tracking.uri={server.address}"]
    for name in ("first", "second"):
        open_store(TrackingConfig(server.address, name), tmp_path)
    with contextlib.ExitStack() as stack:
        sweeps = [stack.enter_context(Sweep(name, overrides)) for name in ("first", "second")]
        wait_for("two runs train", lambda: all(num_running(server, sweep) == 1 for sweep in sweeps))
        server.kill()
        wait_for("a run notices", lambda: any("did not accept" in line for sweep in sweeps for line in [*sweep.lines]))
        time.sleep(AWAY_S)
        server.start()
        outputs = [sweep.end() for sweep in sweeps]
    assert [sweep.process.returncode for sweep in sweeps] == [0, 0], "\n".join(outputs)
    # the folder of this checkout may have records of other runs too
    synced = [result for result in sync(PROJECT / PLACE) if result.address.uri == server.address]
    assert not [str(result) for result in synced if result.num_left]
    for sweep in sweeps:
        check_complete(open_store(TrackingConfig(server.address, sweep.experiment), tmp_path))


def num_running(server: RunningServer, sweep: Sweep) -> int:
    store = open_store(TrackingConfig(server.address, sweep.experiment), Path.cwd())
    runs = store.runs("attributes.status = 'RUNNING'")
    return sum(run.parent_id is not None and "train/loss" in run.figures for run in runs)


def check_complete(store: Store) -> None:
    """Compares what the server has with the files that each run wrote itself."""
    parent, *children = store.runs()
    assert [run.status for run in (parent, *children)] == ["FINISHED"] * (1 + NUM_JOBS)
    assert {run.parent_id for run in children} == {parent.run_id}
    assert len({run.tags["config.hash"] for run in children}) == NUM_JOBS
    assert "headline" in parent.tags
    for run in children:
        text = store.read(run.run_id, "steps.csv")
        assert text is not None
        rows = list(csv.DictReader(io.StringIO(text)))
        assert len(rows) >= EPOCHS
        *history, last = store.client.get_metric_history(run.run_id, "train/loss")  # the last one is the run's metric
        assert [point.step for point in history] == [*range(1, len(rows) + 1)]
        assert [point.value for point in history] == pytest.approx([float(row["loss"]) for row in rows], abs=1e-4)
        assert last.step == len(rows)
        config = store.read(run.run_id, "config.yaml")
        assert config is not None
        assert set(yaml.safe_load(config)) <= set(run.settings)
        files = {entry.path for entry in store.client.list_artifacts(run.run_id)}
        assert {"steps.csv", "report.md", "environment.json", "overrides.yaml", "log.txt"} <= files

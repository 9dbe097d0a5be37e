"""Jobs of several ranks through the command: one run in MLflow, and how it ends if a rank fails, hangs or has other data."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from loaderlab.config import PROJECT
from loaderlab.meter.step_rows import read_rows
from loaderlab.system.ranks import node_name
from tests.forked import Call, Forked, Server

SECONDS = 100.0  # the limit of a test on a loaded machine; a job takes about 5 s
FAILED, WRONG_USAGE, INTERRUPTED, TERMINATED = 1, 2, 130, 143
CUSTOM = ("data=custom", "evaluate=false", "epochs=100")
TWO_RANKS = ("launch=local", "launch.num_ranks=2")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


class Jobs:
    """Starts commands that record in one store."""

    def __init__(self, server: Server, store_uri: str, folder: Path) -> None:
        self._server, self._uri, self._folder = server, store_uri, folder
        self._sessions: list[int] = []

    @property
    def settings(self) -> list[str]:
        """A small model, and no probes."""
        return [
            *("model=feedforward", "model.hidden=[8]", "batch_size=4", "loader.num_workers=0", "torch_threads=1"),
            *("measure=bare", "device=cpu", f"tracking.uri={self._uri}", f"checkpoint.dir={self._folder / 'outputs'}"),
        ]

    def start(self, *commands: list[str], environment: Mapping[str, str] | None = None) -> Forked:
        """Starts ``loaderlab train`` once for each list of settings, each with a node name of its own if there are several."""
        calls = []
        for number, command in enumerate(commands):
            own = {"TMPDIR": str(self._folder), "GLOO_SOCKET_IFNAME": "lo", **(environment or {})}
            if len(commands) > 1:
                own["SLURMD_NODENAME"] = f"n{number}"
            output = self._folder / f"output_{number}.txt"
            calls.append(Call("tests.forked:train", output, [*self.settings, *command], own))
        started = self._server.start(*calls)
        self._sessions += started.pids
        return started

    def run(self, *command: str) -> tuple[int, str]:
        """The exit code and the output of one command."""
        started = self.start(list(command))
        return started.exit_codes(SECONDS)[0], started.text()

    def wait_for_steps(self, count: int, ranks: int = 2) -> None:
        """Waits until every rank has written so many steps."""
        deadline = time.monotonic() + SECONDS
        files: list[Path] = []
        while len(files) < ranks or any(len(read_rows(path)) < count for path in files):
            assert time.monotonic() < deadline
            time.sleep(0.05)
            files = list(self._folder.glob("loaderlab-ranks-*/rank_*/steps.rows"))

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self._uri)

    def records(self) -> list[Run]:
        """All runs."""
        ids = [experiment.experiment_id for experiment in self.client.search_experiments()]
        return list(self.client.search_runs(ids))

    def record(self) -> Run:
        """The only run."""
        (record,) = self.records()
        return record

    def files(self) -> set[str]:
        """The names of the only run's files."""
        return {entry.path for entry in self.client.list_artifacts(self.record().info.run_id)}

    def steps(self, name: str = "steps.csv") -> list[dict[str, str]]:
        """The rows of a file with steps."""
        path = self.client.download_artifacts(self.record().info.run_id, name, str(self._folder))
        return list(csv.DictReader(io.StringIO(Path(path).read_text(encoding="utf-8"))))

    def assert_nothing_left(self) -> None:
        """No process of a job still runs, and no folder of its ranks is left."""
        deadline = time.monotonic() + 20
        while (
            left := [pid for pid in psutil.pids() if _session(pid) in self._sessions]
        ) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert left == []
        assert list(self._folder.glob("loaderlab-ranks-*")) == []


def _session(pid: int) -> int:
    with suppress(ProcessLookupError):
        return os.getsid(pid)
    return -1


@pytest.fixture
def jobs(server: Server, store_uri: str, tmp_path: Path) -> Iterator[Jobs]:
    jobs = Jobs(server, store_uri, tmp_path)
    yield jobs
    jobs.assert_nothing_left()


def failing(how: str, ranks: list[int]) -> tuple[str, ...]:
    """Settings of a dataset that fails on these ranks after 50 steps."""
    options = f"+data.options={{how: {how}, ranks: {ranks}}}"
    return (*CUSTOM, "data.target=tests.training.rank_data:failing", options)


def errors_of(text: str) -> list[str]:
    """The lines of the terminal that report an error."""
    return [line for line in text.splitlines() if line.startswith("error: ")]


# ---- a job that finishes ---------------------------------------------------------------------------------------


def test_a_job_is_one_run_with_the_metrics_of_all_ranks(jobs: Jobs) -> None:
    code, text = jobs.run(*TWO_RANKS, "data=vectors", "data.num_samples=480", "data.num_features=8", "epochs=2")
    assert code == 0, text
    assert f"ranks     2 (2 on {node_name()}), global batch 8" in text
    assert text.count("by rank") == 1
    record, measured = jobs.record(), jobs.record().data.metrics
    assert record.info.status == "FINISHED"
    assert record.data.tags["ranks"] == "2"
    assert record.data.tags["nodes"] == node_name()
    assert "straggler.excess_pct" in record.data.tags
    assert measured["ranks/count"] == 2
    assert measured["worst_rank/time/step_ms"] >= measured["time/step_ms"] > 0
    assert 0 <= measured["val/accuracy"] <= 1

    rows = jobs.steps()
    assert [row["rank"] for row in rows] == ["0"] * 120 + ["1"] * 120  # 480 samples of 2 epochs in batches of 4
    assert [row["step"] for row in rows] == 2 * [str(number) for number in range(120)]
    assert any(float(row["collective_ms"]) > 0 for row in rows)
    whole_ms = 1e3 * 8 / measured["rate/samples_per_s"]  # a step of the job has the samples of both ranks
    assert whole_ms == pytest.approx(measured["time/step_ms"], rel=0.2)

    names = {"steps.csv", "ranks.png", "waits_by_rank.png", "nodes.json", "report.md", "breakdown.png"}
    assert names <= jobs.files()
    path = jobs.client.download_artifacts(record.info.run_id, "nodes.json")
    nodes = json.loads(Path(path).read_text(encoding="utf-8"))
    assert nodes.keys() == {node_name()}
    assert nodes[node_name()]["ranks"] == [0, 1]


@pytest.mark.slow
def test_the_command_starts_new_processes_for_its_ranks(jobs: Jobs, tmp_path: Path) -> None:
    """The other tests fork them. With probes, which all ranks run together."""
    settings = [text for text in jobs.settings if text not in ("measure=bare", "loader.num_workers=0")]
    job = [*settings, *TWO_RANKS, "data=vectors", "data.num_samples=480", "data.num_features=8", "steps=100"]
    command = [sys.executable, "-m", "experiments.train", *job, "measure.probe_s=0.2", "loader.num_workers=1"]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr
    measured = jobs.record().data.metrics
    assert measured["rate/ceiling_samples_per_s"] > measured["rate/samples_per_s"] / 2
    assert measured["rate/loader_samples_per_s"] > 0
    assert "leaked" not in ended.stderr


@pytest.mark.slow
def test_ranks_on_two_nodes(jobs: Jobs) -> None:
    commands = [on_nodes(port := free_port()), on_nodes(port)]
    for command in commands:
        command += ["data=vectors", "data.num_samples=240", "data.num_features=8", "steps=60"]
    started = jobs.start(*commands)
    assert started.exit_codes(SECONDS) == [0, 0], started.text(0) + started.text(1)
    record = jobs.record()
    assert (record.info.status, record.data.tags["ranks"]) == ("FINISHED", "2")
    assert set(record.data.tags["nodes"].split(", ")) == {"n0", "n1"}


# ---- a rank that fails -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "ranks", "cause"),
    [
        ("kill", [1], "rank 1 (node {node}): its process was ended by SIGKILL (usual cause: out of memory)"),
        pytest.param(
            *("kill", [0], "rank 0 (node {node}): its process was ended by SIGKILL (usual cause: out of memory)"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "raise", [1], "rank 1 (node {node}): data=custom: the dataset failed at ids ", marks=pytest.mark.slow
        ),
        pytest.param(
            "raise", [0], "rank 0 (node {node}): data=custom: the dataset failed at ids ", marks=pytest.mark.slow
        ),
        pytest.param(
            "exit",
            [1],
            "rank 1 (node {node}): its process ended with exit code 7 and no result",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_rank_that_fails_ends_the_job_and_is_named_once(how: str, ranks: list[int], cause: str, jobs: Jobs) -> None:
    code, text = jobs.run(*TWO_RANKS, *failing(how, ranks))
    cause = cause.format(node=node_name())
    assert code == FAILED, text
    assert len(errors_of(text)) == 1, text
    assert errors_of(text)[0].startswith(f"error: {cause}")
    assert text.count(cause) == 1, text
    lines = text.strip().splitlines()
    assert lines[-1] == errors_of(text)[0]
    known = [line for line in lines if "starved of data" in line]  # none if rank 0 was ended before it could print
    assert all(line.startswith("the run ended early, after ") for line in known)
    assert "by rank" not in text
    assert "Try " not in text
    record = jobs.record()
    assert record.info.status == "FAILED"
    assert record.data.tags["error"].startswith(cause)
    rows = jobs.steps()  # what both ranks had written
    for rank in "01":
        assert len([row for row in rows if row["rank"] == rank]) >= 45


@pytest.mark.slow
def test_an_error_of_all_ranks_is_named_once_without_a_rank(jobs: Jobs) -> None:
    code, text = jobs.run(*TWO_RANKS, "data=imagefolder", "data.root=/no/such/folder")
    assert code == FAILED
    assert len(errors_of(text)) == 1, text
    assert text.count("/no/such/folder") == 1
    assert "(node" not in text
    record = jobs.record()
    assert record.info.status == "FAILED"
    assert record.data.tags["error"].startswith("data.root=/no/such/folder")


@pytest.mark.slow
def test_an_error_of_two_ranks_at_the_same_time_is_named_once(jobs: Jobs) -> None:
    code, text = jobs.run(*TWO_RANKS, *failing("raise", [0, 1]))
    assert code == FAILED
    assert len(errors_of(text)) == 1, text
    assert text.count("this sample is bad") == 1
    assert jobs.record().info.status == "FAILED"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "to_all", "code", "cause"),
    [
        (signal.SIGINT, True, INTERRUPTED, "interrupted by Ctrl-C"),
        (signal.SIGINT, False, INTERRUPTED, "interrupted by Ctrl-C"),
        (signal.SIGTERM, False, TERMINATED, "interrupted by SIGTERM"),
    ],
    ids=["ctrl-c", "sigint", "sigterm"],
)
def test_an_interrupted_job(number: int, to_all: bool, code: int, cause: str, jobs: Jobs) -> None:
    """A terminal sends Ctrl-C to all processes; a batch system sends a signal to the launching process only."""
    started = jobs.start([*TWO_RANKS, *failing("slow", [0, 1])])
    jobs.wait_for_steps(30)
    (os.killpg if to_all else os.kill)(started.pids[0], number)
    assert started.exit_codes(SECONDS) == [code], started.text()
    text = started.text()
    assert text.count("interrupted: everything recorded so far is kept") == 1
    assert errors_of(text) == []
    assert "Traceback" not in text
    record = jobs.record()
    assert (record.info.status, record.data.tags["error"]) == ("KILLED", cause)
    assert len({row["rank"] for row in jobs.steps()}) == 2
    assert "rate/samples_per_s" in record.data.metrics


# ---- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ranks_with_other_samples_are_refused(jobs: Jobs) -> None:
    options = "+data.options={num_samples: 100}"
    code, text = jobs.run(*TWO_RANKS, *CUSTOM, "data.target=tests.training.rank_data:unequal", options)
    assert code == FAILED
    assert len(errors_of(text)) == 1, text
    where = f"101 on rank 1 (node {node_name()}) and 100 on rank 0 (node {node_name()})"
    assert f"number of training samples is {where}" in errors_of(text)[0]
    assert jobs.record().info.status == "FAILED"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_train", "message"),
    [
        (1, "launch.num_ranks=2: there is only 1 training sample. Type"),
        (
            7,
            "batch_size=4: there are 7 training samples, 3 for each of 2 ranks, and drop_last=true drops a short batch",
        ),
    ],
)
def test_a_share_without_a_batch_is_refused(num_train: int, message: str, jobs: Jobs) -> None:
    """Only the ranks know how many samples a dataset of one's own has."""
    options = f"+data.options={{num_train: {num_train}, num_val: 1}}"
    code, text = jobs.run(*TWO_RANKS, *CUSTOM, "data.target=tests.training.rank_data:vectors", options)
    assert code == WRONG_USAGE
    assert len(errors_of(text)) == 1, text
    assert errors_of(text)[0].startswith(f"error: {message}")
    assert jobs.record().info.status == "FAILED"


@pytest.mark.slow
def test_nodes_with_other_settings_are_refused(jobs: Jobs) -> None:
    port = free_port()
    data = ["data=vectors", "data.num_samples=240", "data.num_features=8"]
    started = jobs.start([*on_nodes(port), *data, "seed=1"], [*on_nodes(port), *data, "seed=2"])
    assert started.exit_codes(SECONDS) == [FAILED, FAILED]
    for number in range(2):
        assert len(errors_of(started.text(number))) == 1, started.text(number)
        assert "the ranks differ: seed is" in errors_of(started.text(number))[0]


def on_nodes(port: int, join_s: int = 60) -> list[str]:
    """Two nodes with a rank each, on this machine."""
    return ["launch=nodes", "launch.num_nodes=2", f"launch.rendezvous=127.0.0.1:{port}", f"launch.join_s={join_s}"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_a_rendezvous_that_nobody_joins_ends_after_its_time_limit(jobs: Jobs) -> None:
    port = free_port()
    code, text = jobs.run(*on_nodes(port, join_s=3), "data=vectors")
    assert code == FAILED
    assert f"waiting for 2 nodes at 127.0.0.1:{port}" in text
    assert len(errors_of(text)) == 1, text
    expected = f"error: launch.rendezvous=127.0.0.1:{port}: 2 nodes did not meet there within launch.join_s=3 seconds"
    assert errors_of(text)[0].startswith(expected)
    assert jobs.records() == []


@pytest.mark.slow
def test_a_port_that_another_program_uses(jobs: Jobs) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, text = jobs.run(*on_nodes(port, join_s=3), "data=vectors")
    assert code == FAILED
    assert len(errors_of(text)) == 1, text
    assert errors_of(text)[0].startswith(f"error: launch.rendezvous=127.0.0.1:{port}: ")
    assert "the port must be free there" in errors_of(text)[0]


# ---- nodes that fail -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_dies_on_another_node_is_named_on_both(rank: int, jobs: Jobs) -> None:
    port = free_port()
    started = jobs.start(*[[*on_nodes(port), *failing("kill", [rank])] for _ in range(2)])
    assert started.exit_codes(SECONDS) == [FAILED, FAILED]
    record = jobs.record()
    assert record.info.status == "FAILED"
    assert record.data.tags["error"].startswith(f"rank {rank} (node n")
    assert "SIGKILL" in record.data.tags["error"]
    assert {row["rank"] for row in jobs.steps()} == {"0"}
    assert len(jobs.steps()) >= 45
    other, *more = [name for name in jobs.files() if "_from_rank_" in name]
    assert (len(jobs.steps(other)) >= 45, other.endswith("_from_rank_1.csv"), more) == (True, True, [])
    assert {row["rank"] for row in jobs.steps(other)} == {"1"}
    for number in range(2):
        assert errors_of(started.text(number)) == [f"error: {record.data.tags['error']}"], started.text(number)


@pytest.mark.slow
def test_a_node_that_is_killed_ends_the_job_of_the_other(jobs: Jobs, tmp_path: Path) -> None:
    port = free_port()
    started = jobs.start(*[[*on_nodes(port), *failing("slow", [0, 1])] for _ in range(2)])
    jobs.wait_for_steps(30)
    first = next(number for number in range(2) if "samples" in started.text(number))  # only rank 0 prints
    os.killpg(started.pids[1 - first], signal.SIGKILL)
    codes = started.exit_codes(SECONDS)
    assert codes[1 - first] == -signal.SIGKILL
    assert codes[first] == FAILED
    assert len(errors_of(started.text(first))) == 1, started.text(first)
    record = jobs.record()
    assert record.info.status == "FAILED"
    assert f"node n{1 - first}" in record.data.tags["error"]
    (left,) = tmp_path.glob("loaderlab-ranks-*")  # of the killed node
    shutil.rmtree(left)

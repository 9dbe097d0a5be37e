"""A dead rank loses nothing: the steps that the ranks of each node have written are recorded once, or kept."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loaderlab.config import TrackingConfig, TrainConfig
from loaderlab.meter.step_rows import StepRows
from loaderlab.runs import elastic, rank_failure
from loaderlab.runs.elastic import NodeSpec, run_ranks
from loaderlab.runs.job import Job, RunResult
from loaderlab.runs.rank_failure import Ended, conclude
from loaderlab.runs.rank_process import ROWS, RankEnd, RankInfo, RankTask, _write_end, rank_folder, write_info
from loaderlab.system.terminal import Terminal
from loaderlab.tracking import open_store
from loaderlab.tracking.store import Store
from tests.running_server import free_port

MS = 1_000_000
NUM_STEPS = 40
SPEC = NodeSpec(1, 1, "127.0.0.1:0", "a job", 9)
KILLED = Ended({1: -9})
RunKilled = Callable[[TrainConfig, str], Path]  # with the run's id; returns the folder of the node's ranks


@pytest.fixture
def config(make_config: Callable[..., TrainConfig]) -> TrainConfig:
    return make_config("launch=local")


@pytest.fixture
def store(config: TrainConfig, tmp_path: Path) -> Store:
    return open_store(config.tracking, tmp_path)


def started(store: Store) -> str:
    """The id of a run that trains on another host."""
    return store.start("job", None, {"process.host": "n1"}).run_id


def node(folder: Path, rank: int, run_id: str) -> Path:
    """Fills the folder of a node with one of two ranks, which has written its steps."""
    own = rank_folder(folder, rank)
    own.mkdir(parents=True)
    rows = StepRows(own / ROWS, pytest.fail)
    for step in range(NUM_STEPS):
        times = [MS * (20 * step + ms) for ms in (0, 5, 5, 10, 18, 19, 20)]
        rows.host(step, 0, step, 8, times, MS, loss=1.0, drained=None, disturbed=False)
    rows.close()
    write_info(own, RankInfo(rank, 2, f"n{rank + 1}", 1, run_id, str(own / ROWS), warmup_steps=5))
    return folder


def files(store: Store, run_id: str) -> set[str]:
    return {entry.path for entry in store.client.list_artifacts(run_id)}


def steps(store: Store, run_id: str, name: str) -> list[tuple[str, str]]:
    """Rank and step of each line of a file."""
    lines = (store.read(run_id, name) or "").splitlines()[1:]
    return [(line.split(",")[0], line.split(",")[2]) for line in lines]


@pytest.mark.parametrize("first_is_last", [False, True])
def test_each_node_records_its_own_steps(
    first_is_last: bool,
    config: TrainConfig,
    store: Store,
    tmp_path: Path,
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rank 0 was killed, so that nobody else records the end. The nodes do so in any order."""
    monkeypatch.setattr(rank_failure, "RECORDING_S", 0.0)
    run_id = started(store)
    for rank in (1, 0) if first_is_last else (0, 1):
        folder = node(tmp_path / str(rank), rank, run_id)
        result = conclude(config, Ended({rank: -9}), folder, None, terminal)
        assert result.status == "FAILED"
    names = ("steps.csv", "steps_n2_from_rank_1.csv")
    assert files(store, run_id) == set(names)
    for rank, name in enumerate(names):
        assert steps(store, run_id, name) == [(str(rank), str(step)) for step in range(NUM_STEPS)]
    run = store.run(run_id)
    assert run is not None
    assert (run.status, run.figures["ranks/count"]) == ("FAILED", 2)
    assert "SIGKILL" in run.tags["error"]


def test_a_node_adds_its_steps_to_an_end_that_rank_0_has_recorded(
    config: TrainConfig, store: Store, tmp_path: Path, terminal: Terminal
) -> None:
    run_id = started(store)
    store.correct(
        run_id, "FAILED", {"error": "rank 1 (node n2): it broke", "verdict": "fed"}, {}, {"steps.csv": "rank 0"}
    )
    before = store.run(run_id)
    conclude(config, KILLED, node(tmp_path, 1, run_id), None, terminal)
    assert store.run(run_id) == before
    assert files(store, run_id) == {"steps.csv", "steps_n2_from_rank_1.csv"}
    assert store.read(run_id, "steps.csv") == "rank 0"


def test_the_steps_of_a_job_that_finished_are_not_recorded_twice(
    config: TrainConfig, store: Store, tmp_path: Path, terminal: Terminal
) -> None:
    run_id = started(store)
    store.correct(run_id, "FINISHED", {}, {}, {})
    conclude(config, KILLED, node(tmp_path, 1, run_id), None, terminal)
    assert files(store, run_id) == set()


@pytest.fixture
def run_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: Terminal) -> RunKilled:
    """Runs a node with rank 0, which is killed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def run(config: TrainConfig, run_id: str) -> Path:
        folders: list[Path] = []

        def ends(task: RankTask, *_: object) -> Ended:
            folders.append(node(Path(task.folder), 0, run_id))
            return Ended({0: -9})

        monkeypatch.setattr(elastic, "_run", ends)
        assert run_ranks(config, Job("job", "arm"), terminal, SPEC).status == "FAILED"
        return folders[0]

    return run


def test_steps_are_kept_if_the_server_does_not_answer(
    run_killed: RunKilled, config: TrainConfig, terminal: Terminal
) -> None:
    away = replace(config, tracking=TrackingConfig(uri=f"http://127.0.0.1:{free_port()}"))
    folder = run_killed(away, "an id")
    assert (folder / "rank_0" / ROWS).exists()
    first, second = terminal.warnings
    assert first.startswith(
        f"how run an id ended could not be recorded: tracking.uri={away.tracking.uri}: no tracking server"
    )
    assert second == f"the steps of this node's ranks are kept in {folder}"


def test_steps_that_are_recorded_are_not_kept(
    run_killed: RunKilled, config: TrainConfig, store: Store, terminal: Terminal
) -> None:
    assert not run_killed(config, started(store)).exists()
    assert terminal.warnings == []


class Board:
    """The board of a node whose partner was switched off."""

    silent = "node n1 (rank 0)"

    def post(self, note: object) -> None:
        """Reaches nobody."""

    def wait_for_others(self) -> None:
        """There are none."""


@pytest.mark.parametrize("recorded", ["RUNNING", "FINISHED"])
def test_a_node_that_finished_asks_the_record_if_rank_0_was_switched_off(
    recorded: str,
    config: TrainConfig,
    store: Store,
    tmp_path: Path,
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rank_failure, "RECORDING_OF_SILENT_S", 0.0)
    run_id = started(store)
    if recorded == "FINISHED":
        store.correct(run_id, "FINISHED", {}, {}, {})
    folder = node(tmp_path, 1, run_id)
    _write_end(rank_folder(folder, 1), RankEnd(1, "FINISHED"))
    board: Any = Board()
    result = conclude(config, Ended(), folder, board, terminal)
    run = store.run(run_id)
    assert run is not None
    if recorded == "FINISHED":
        assert (result, run.status) == (RunResult("", "FINISHED"), "FINISHED")
    else:
        assert (result.status, run.status) == ("FAILED", "FAILED")
        assert result.error == run.tags["error"] == "node n1 (rank 0) stopped answering"

"""Which node a job names if the store of its nodes does not answer any more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from torch._C._distributed_c10d import PrefixStore, TCPStore

from loaderlab.runs import node_board
from loaderlab.runs.node_board import NodeBoard
from loaderlab.runs.rank_process import RankInfo, rank_folder, write_info
from tests.running_server import free_port

WAIT_S = 60.0  # a limit on a loaded machine
HOST = """
import sys, time
from pathlib import Path
from loaderlab.runs import node_board
node_board.BEAT_S = 0.1
node_board.NodeBoard(sys.argv[1], Path(sys.argv[2]), hosts=True).start()
time.sleep(600)
"""


def await_that(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def process() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts processes that end with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str, **variables: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, *command], env={**os.environ, **variables}))
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.wait()


def rank_on_node(folder: Path, rank: int, node: str, pid: int) -> Path:
    """The folder of a node's only rank."""
    rank_folder(folder, rank).mkdir(parents=True)
    write_info(rank_folder(folder, rank), RankInfo(rank, 2, node, pid))
    return folder


def test_a_killed_node_that_has_the_store_is_named(
    process: Callable[..., subprocess.Popen[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_board, "BEAT_S", 0.1)
    monkeypatch.setattr(node_board, "SILENT_S", 2.0)
    port = free_port()
    endpoint = f"127.0.0.1:{port}"
    own_rank, other_rank = (process("-c", "import time; time.sleep(600)") for _ in range(2))
    other_folder = rank_on_node(tmp_path / "1", 1, "n7", other_rank.pid)
    host = process("-c", HOST, endpoint, str(other_folder), SLURMD_NODENAME="n7")
    store = PrefixStore("loaderlab", TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=WAIT_S)))
    await_that(lambda: store.check(["beat/1"]))
    board = NodeBoard(endpoint, rank_on_node(tmp_path / "0", 0, "n6", own_rank.pid))
    board.start()
    await_that(lambda: store.check(["beat/2"]) and json.loads(store.get("beat/2"))[0] >= 3)  # it has looked twice
    host.kill()
    await_that(lambda: own_rank.poll() is not None)
    assert board.silent == "node n7 (rank 1)"
    board.close()

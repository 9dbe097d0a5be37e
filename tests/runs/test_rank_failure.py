"""How a job of several ranks ended: the first cause, named once; what nodes know of each other; which machines can have the ranks."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._C._distributed_c10d import TCPStore
from torch.distributed.elastic.rendezvous.api import RendezvousConnectionError

from loaderlab.config import JOIN_S, LaunchConfig, LocalLaunch, NodesLaunch, TrainConfig, UserError
from loaderlab.device.cpu import Cpu
from loaderlab.device.cuda import Cuda
from loaderlab.runs import elastic, node_board
from loaderlab.runs.job import Job, RunResult
from loaderlab.runs.node_board import NodeBoard, Note
from loaderlab.runs.rank_checks import check_device, difference
from loaderlab.runs.rank_failure import Ended, cause, conclude
from loaderlab.runs.rank_process import (
    END,
    RankEnd,
    RankInfo,
    RankTask,
    _write_end,
    rank_folder,
    read_ends,
    read_infos,
    write_info,
)
from loaderlab.system.ranks import Ranks, node_name
from loaderlab.system.terminal import Terminal
from loaderlab.training.rank_group import is_broken
from tests.conftest import compose

INFOS = [RankInfo(rank, 3, "ab"[rank // 2], 1) for rank in range(3)]
LOST = "RuntimeError: gloo: Connection closed by peer"


def failed(rank: int, error: str, at: float, *, secondary: bool = False, status: str = "FAILED") -> RankEnd:
    return RankEnd(rank, status, error, secondary, at)


# ---- the cause -------------------------------------------------------------------------------------------------


def test_the_first_error_that_no_other_has_caused() -> None:
    ends = [failed(0, LOST, 1.0, secondary=True), failed(1, "it broke", 3.0), failed(2, "so did this", 4.0)]
    assert cause(ends, {0: 1, 1: 1, 2: 1}, INFOS) == Note("rank 1 (node a): it broke", False, 3.0)
    assert cause(ends[::2], {0: 1, 2: 1}, INFOS).text == "rank 2 (node b): so did this"
    assert cause(ends[:1], {0: 1}, INFOS) == Note(f"rank 0 (node a): {LOST}", True, 1.0)


def test_a_rank_that_left_no_report_is_the_cause_unless_its_agent_ended_it() -> None:
    lost = [failed(0, LOST, 1.0, secondary=True)]
    killed = cause(lost, {0: 1, 1: -signal.SIGKILL, 2: -signal.SIGTERM}, INFOS)
    assert killed.text == "rank 1 (node a): its process was ended by SIGKILL (usual cause: out of memory)"
    assert not killed.secondary
    assert cause(lost, {0: 1, 2: -signal.SIGTERM}, INFOS).text == ("rank 2 (node b): its process was ended by SIGTERM")
    assert cause([], {2: 7}, INFOS).text == "rank 2 (node b): its process ended with exit code 7 and no result"


def test_a_rank_that_crashes_after_its_result_is_named() -> None:
    ends = [RankEnd(0, "FINISHED", at=1.0), RankEnd(1, "FINISHED", at=2.0)]
    crashed = cause(ends, {1: -signal.SIGSEGV, 0: -signal.SIGTERM}, INFOS)
    assert crashed == Note("rank 1 (node a): its process was ended by SIGSEGV after it had finished", False, 2.0)
    assert (
        cause(ends, {0: 7}, INFOS).text == "rank 0 (node a): its process ended with exit code 7 after it had finished"
    )


def test_an_error_of_all_ranks_names_none_of_them() -> None:
    ends = [failed(rank, "data: no such folder", 1.0 + rank) for rank in range(3)]
    assert cause(ends, {0: 1, 1: 1, 2: 1}, INFOS).text == "data: no such folder"
    ends[2] = failed(2, "another", 9.0)
    assert cause(ends, {0: 1, 1: 1, 2: 1}, INFOS).text == "rank 0 (node a): data: no such folder"


def test_ranks_without_a_result_are_reported() -> None:
    note = cause([], {}, [])
    assert note.secondary
    assert "ended without a result" in note.text


@pytest.mark.parametrize(
    ("error", "broken"),
    [
        (RuntimeError("[enforce fail] gloo/transport/tcp: Connection closed by peer [127.0.0.1]:4"), True),
        (torch.distributed.DistNetworkError("timed out"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (UserError("data: Broken pipe"), False),
    ],
)
def test_which_errors_another_rank_has_caused(error: Exception, broken: bool) -> None:
    assert is_broken(error) == broken


def test_the_files_of_a_rank_are_read_back(tmp_path: Path) -> None:
    result = RunResult("an id", "FINISHED", {"rate/samples_per_s": 3.5}, verdict="fed")
    for rank, given in ((1, None), (0, result)):
        folder = rank_folder(tmp_path, rank)
        folder.mkdir()
        write_info(folder, replace(INFOS[rank], pid=rank))
        write_info(folder, replace(INFOS[rank], run_id="an id"))
        _write_end(folder, RankEnd(rank, "FINISHED", at=2.5, result=given))
    assert read_infos(tmp_path) == [replace(info, run_id="an id") for info in INFOS[:2]]
    assert read_ends(tmp_path) == [RankEnd(0, "FINISHED", at=2.5, result=result), RankEnd(1, "FINISHED", at=2.5)]
    assert conclude(compose([]), Ended(), tmp_path, None, Terminal()) == result
    (rank_folder(tmp_path, 1) / END).unlink()  # it died without one
    assert conclude(compose([]), Ended({1: -9}), tmp_path, None, Terminal()).status == "FAILED"


@pytest.mark.parametrize(("second", "wrong_usage"), [(True, True), (False, False)])
def test_ranks_that_refuse_a_setting_are_wrong_usage(second: bool, wrong_usage: bool, tmp_path: Path) -> None:
    for rank, is_refused in enumerate((True, second)):
        rank_folder(tmp_path, rank).mkdir()
        write_info(rank_folder(tmp_path, rank), replace(INFOS[rank], run_id=""))
        _write_end(rank_folder(tmp_path, rank), replace(failed(rank, "batch_size=9", 1.0), wrong_usage=is_refused))
    result = conclude(compose([]), Ended({0: 1, 1: 1}), tmp_path, None, Terminal())
    assert (result.error, result.wrong_usage) == ("batch_size=9", wrong_usage)


def test_all_ranks_interrupted_is_killed(tmp_path: Path) -> None:
    for rank in range(2):
        folder = rank_folder(tmp_path, rank)
        folder.mkdir()
        write_info(folder, replace(INFOS[rank], run_id=""))
        _write_end(folder, failed(rank, "interrupted by SIGTERM", 1.0, secondary=True, status="KILLED"))
    result = conclude(compose([]), Ended(), tmp_path, None, Terminal())
    assert (result.status, result.error) == ("KILLED", "interrupted by SIGTERM")
    with pytest.raises(KeyboardInterrupt):
        conclude(compose([]), Ended(interrupt=KeyboardInterrupt()), tmp_path, None, Terminal())


# ---- what the ranks were given ---------------------------------------------------------------------------------


def test_the_first_rank_that_differs_is_named_with_at_most_five_differences() -> None:
    places = [Ranks(rank, 3, node=node) for rank, node in enumerate("aab")]
    same = {"seed": "1", "torch": "2.11"}
    assert difference([(place, same) for place in places]) == ""
    assert difference([(places[0], same), (places[1], same), (places[2], {"seed": "1"})]) == (
        "the ranks differ: torch is missing on rank 2 (node b) and 2.11 on rank 0 (node a)"
    )
    many = [{f"s{number}": str(rank) for number in range(7)} for rank in range(2)]
    text = difference([(places[0], many[0]), (places[1], many[1])])
    assert text.endswith("s4 is 1 on rank 1 (node a) and 0 on rank 0 (node a); and 2 more")


class TwoRanks:
    """A group in which the first rank has a GPU and reports nothing else."""

    ranks = Ranks(1, 2, node="b")

    def all_gather(self, value: Any) -> list[Any]:
        return [(Ranks(0, 2, node="a"), {"kind of device": "cuda"}), value]


def test_ranks_of_which_some_have_no_gpu_are_refused() -> None:
    """Otherwise the first rank would wait in NCCL for the other one."""
    group: Any = TwoRanks()
    with pytest.raises(UserError, match=r"kind of device is cpu on rank 1 \(node b\) and cuda on rank 0 \(node a\)"):
        check_device(group, Cpu())
    check_device(group, Cuda(1))


@pytest.mark.parametrize(
    ("launch", "num_gpus", "device", "refusal"),
    [
        (LocalLaunch(2), 1, "auto", r"launch.num_ranks=2: this machine has 1 GPU, .*launch.num_ranks=1, or device=cpu"),
        (LocalLaunch(9), 8, "cuda", r"launch.num_ranks=9: this machine has 8 GPUs, and each rank needs its own"),
        (
            NodesLaunch(2, 3, "a:29500"),
            2,
            "auto",
            r"launch.ranks_per_node=3: this machine has 2 GPUs.*Type: launch.ranks_per_node=2",
        ),
        (LocalLaunch(1), 2, "cuda:0", r"device=cuda:0: names one GPU, and each rank has its own"),
        (LocalLaunch(8), 8, "auto", None),
        (LocalLaunch(8), 2, "cpu", None),
        (LocalLaunch(8), 0, "auto", None),
    ],
)
def test_each_rank_needs_a_gpu_of_its_own(
    launch: LocalLaunch | NodesLaunch,
    num_gpus: int,
    device: str,
    refusal: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    config = replace(compose([]), device=device)
    if refusal is None:
        ranks = launch.num_ranks if isinstance(launch, LocalLaunch) else launch.ranks_per_node
        assert elastic.node_spec(launch, config).ranks_per_node == ranks
        return
    with pytest.raises(UserError, match=refusal):
        elastic.node_spec(launch, config)


@pytest.mark.parametrize(("num_gpus", "device", "ranks"), [(4, "auto", 4), (0, "auto", 1), (4, "cpu", 1)])
def test_a_node_has_a_rank_for_each_gpu(
    num_gpus: int, device: str, ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    config = replace(compose([]), device=device)
    spec = elastic.node_spec(NodesLaunch(3, rendezvous="b:1234", join_s=7), config)
    assert (spec.ranks_per_node, spec.num_nodes, spec.host, spec.join_s) == (ranks, 3, "b", 7)


def test_ranks_of_one_machine_may_start_as_slowly_as_those_of_several() -> None:
    assert elastic.node_spec(LocalLaunch(2), compose(["device=cpu"])).join_s == JOIN_S


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RuntimeError("Timed out after 121 seconds"),
            "the 2 nodes of Slurm job 7 did not meet at n1:12007 within launch.join_s=120 seconds. Type: launch.join_s=300",
        ),
        (OSError("in use"), "the 2 nodes of Slurm job 7 cannot meet at n1:12007: in use"),
    ],
)
def test_nodes_of_slurm_that_do_not_meet_name_no_settings_that_nobody_typed(error: Exception, message: str) -> None:
    spec = elastic.NodeSpec(2, 1, "n1:12007", "slurm-7", 120, slurm_job="7")
    assert str(elastic._not_met(spec, error)) == message


def test_gpus_do_not_limit_the_ranks_of_emulated_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    config = compose(["accelerator=custom", "accelerator.step_ms=5"])
    assert elastic.node_spec(LocalLaunch(4), config).ranks_per_node == 4


@pytest.mark.parametrize("rendezvous", ["node1", "node1:", ":29500", "node1:0", "node1:65536", "node1:port"])
def test_a_rendezvous_is_a_host_with_a_port(rendezvous: str) -> None:
    with pytest.raises(UserError, match=r"launch.rendezvous=.*must be HOST:PORT"):
        NodesLaunch(rendezvous=rendezvous)


def test_only_one_process_has_no_ranks() -> None:
    assert not LaunchConfig().is_distributed
    assert LocalLaunch(1).is_distributed
    assert compose(["launch=local"]).launch == LocalLaunch(2)


# ---- the nodes -------------------------------------------------------------------------------------------------


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> TCPStore:
    """The store of a rendezvous, with times that are short enough for a test."""
    for name, seconds in {"BEAT_S": 0.05, "LEAVE_S": 0.2, "NOTE_S": 5.0}.items():
        monkeypatch.setattr(node_board, name, seconds)
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=5))


MakeNode = Callable[[int], NodeBoard]


@pytest.fixture
def make_node(store: TCPStore, tmp_path: Path) -> Iterator[MakeNode]:
    """Starts the board of a node with one rank, a process that sleeps."""
    ranks, boards = list[subprocess.Popen[bytes]](), list[NodeBoard]()

    def make(rank: int) -> NodeBoard:
        folder = tmp_path / f"node_{rank}"
        rank_folder(folder, rank).mkdir(parents=True)
        sleeper = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(120)"])
        ranks.append(sleeper)
        write_info(rank_folder(folder, rank), RankInfo(rank, 2, f"n{rank}", sleeper.pid))
        board = NodeBoard(f"127.0.0.1:{store.port}", folder)
        board.processes = ranks  # type: ignore[attr-defined]
        board.start()
        boards.append(board)
        until(lambda: board._number > 0)
        return board

    yield make
    for board in boards:
        board.close()
    for rank in ranks:
        with suppress(ProcessLookupError):
            rank.kill()
        rank.wait()


def until(happens: Callable[[], bool]) -> None:
    """Waits until something happens."""
    deadline = time.monotonic() + 20
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def processes_of(board: NodeBoard) -> list[subprocess.Popen[bytes]]:
    processes: list[subprocess.Popen[bytes]] = board.processes  # type: ignore[attr-defined]
    return processes


def test_nodes_read_each_others_notes(make_node: MakeNode) -> None:
    first, second = make_node(0), make_node(1)
    first.post(Note("its partner is gone", True, 2.0))
    threading.Timer(0.3, second.post, [Note("rank 1 (node b): it broke", False, 3.0)]).start()
    assert first.notes() == [Note("rank 1 (node b): it broke", False, 3.0)]
    assert second._notes() == [Note("its partner is gone", True, 2.0)]


def test_notes_are_waited_for_only_for_a_while(make_node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_board, "NOTE_S", 0.3)
    first, second = make_node(0), make_node(1)
    second.post(Note("its partner is gone", True, 2.0))
    assert first.notes() == [Note("its partner is gone", True, 2.0)]


def test_a_node_that_stops_answering_is_named_and_the_ranks_of_the_others_are_ended(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_board, "SILENT_S", 2.0)
    first, second = make_node(0), make_node(1)
    until(lambda: bool(first._seen))
    second._over.set()  # as if it had been switched off: it does not say that it left
    until(lambda: bool(first.silent))
    assert first.silent == f"node {node_name()} (rank 1)"
    ranks = processes_of(first)
    assert ranks[0].wait(20) == -signal.SIGTERM
    assert ranks[1].poll() is None  # not its own


def test_a_node_that_left_is_not_silent(make_node: MakeNode) -> None:
    first, second = make_node(0), make_node(1)
    until(lambda: bool(first._seen))
    second.close()
    assert first._silent_nodes(time.monotonic() + 10 * node_board.SILENT_S) == []
    assert first.silent == ""
    first.wait_for_others()  # returns, since there is none
    assert processes_of(first)[0].poll() is None


def test_a_beat_names_all_ranks_of_the_node(make_node: MakeNode) -> None:
    board = make_node(0)
    rank_folder(board._folder, 1).mkdir()
    write_info(rank_folder(board._folder, 1), RankInfo(1, 2, "n0", processes_of(board)[0].pid))
    assert board._store is not None
    store = board._store
    until(lambda: json.loads(store.get("beat/1"))[1] == f"node {node_name()} (ranks 0, 1)")


def test_a_node_whose_ranks_never_start_ends_its_watch(store: TCPStore, tmp_path: Path) -> None:
    board = NodeBoard(f"127.0.0.1:{store.port}", tmp_path)
    board.start()
    board.close()
    assert board._threads
    assert not any(thread.is_alive() for thread in board._threads)
    assert board.notes() == []


def test_ranks_may_fail_before_the_first_beat(store: TCPStore, tmp_path: Path, make_node: MakeNode) -> None:
    """The other nodes still get the note."""
    early = NodeBoard(f"127.0.0.1:{store.port}", tmp_path)
    early.start()
    other = make_node(1)
    early.post(Note("rank 0 (node a): it broke", False, 1.0))
    assert other.notes() == [Note("rank 0 (node a): it broke", False, 1.0)]
    early.close()


@pytest.mark.parametrize("has_ranks", [False, True])
def test_the_store_that_is_lost_after_the_rendezvous_is_no_wrong_rendezvous(
    has_ranks: bool, store: TCPStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent that has the store may be killed before `NodeBoard` misses it: torch then raises the error of a wrong address."""
    config = compose([])
    spec = elastic.node_spec(NodesLaunch(2, rendezvous=f"127.0.0.1:{store.port}", join_s=7), config)
    folder = tmp_path / "ranks"

    class Launched:
        def __init__(self, settings: Any, work: Any) -> None:
            self._is_host = settings.rdzv_configs["is_host"]

        def __call__(self, task: Any) -> None:
            if self._is_host:
                raise RendezvousConnectionError("in use") from OSError("EADDRINUSE")
            if has_ranks:
                (folder / "rank_0").mkdir(parents=True)
                write_info(folder / "rank_0", INFOS[0])
            raise RendezvousConnectionError("The connection to the C10d store has failed.")

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", Launched)
    task = RankTask(config, Job("job", "arm"), str(folder))
    board = NodeBoard(spec.endpoint, folder)
    try:
        if has_ranks:
            assert elastic._run(task, spec, board) == Ended()
        else:
            with pytest.raises(
                UserError, match=r"no rendezvous is possible there: The connection .* has failed"
            ) as raised:
                elastic._run(task, spec, board)
            assert "EADDRINUSE" not in str(raised.value)
    finally:
        board.close()


def test_settings_of_this_node_may_differ(make_config: Callable[..., TrainConfig]) -> None:
    """The folders, the number of ranks and the records belong to a node; what is learned does not."""
    from loaderlab.runs.rank_checks import PLACES

    names = [name for name, _ in make_config().recorded()]
    assert all(any(name.startswith(place) for name in names) for place in PLACES if place != "launch.")
    assert not {"batch_size", "seed", "accumulate", "drop_last", "epochs", "steps"} & set(PLACES)

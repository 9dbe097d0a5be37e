"""``loaderlab watch`` under torchrun: real ranks over gloo whose waits and computations take planted times."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.watched_ranks import EXPECTED, SCRIPT

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
WATCH = ["loaderlab", "watch", "--json=result.json"]
PATIENCE_S = 120
LOOP = """
import os, sys, time
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

what, rank = sys.argv[1], int(os.environ["RANK"])
if what != "no group":
    distributed.init_process_group("gloo")
model = torch.nn.Linear(4, 1)
if what in ("dies", "raises"):
    model = DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step, (inputs,) in enumerate(DataLoader(TensorDataset(torch.ones(40, 4)))):
    if what == "dies" and rank == 1 and step == 30:
        os.kill(os.getpid(), 9)
    if what == "raises" and rank == 1 and step == 30:
        raise ValueError("bad batch")
    model(inputs).sum().backward()
    time.sleep(0.005)
    optimizer.step()
    optimizer.zero_grad()
if what not in ("no group", "dies", "raises"):
    distributed.destroy_process_group()
print("trained")
"""


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def torchrun(folder: Path, ranks: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TORCHRUN, f"--nproc-per-node={ranks}", "-m", *WATCH, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=environment(),
    )


def loop(folder: Path, what: str) -> subprocess.CompletedProcess[str]:
    (folder / "train.py").write_text(LOOP, encoding="utf-8")
    return torchrun(folder, 2, "train.py", what)


def result(folder: Path, name: str = "result.json") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    return content


def in_one_line(text: str) -> str:
    return " ".join(text.split())


def test_the_first_rank_judges_the_job_and_each_rank_has_its_own_result(tmp_path: Path) -> None:
    """The script has a communication hook of its own."""
    done = torchrun(tmp_path, 2, str(SCRIPT), "--case=loader", f"--truth={tmp_path}")
    assert done.returncode == 0, done.stderr
    printed = in_one_line(done.stderr)
    assert printed.count(" on 2 ranks: ") == 1
    first, second = result(tmp_path), result(tmp_path, "result.rank1.json")
    assert (first["notes"], len(first["ranks"])) == ([], 2)
    assert "straggler" in first
    assert "straggler" not in second


@pytest.mark.slow  # it judges sleeps, which take longer on a busy machine
def test_the_first_rank_names_the_slow_one_and_the_gate_judges_the_job(tmp_path: Path) -> None:
    done = torchrun(tmp_path, 2, "--fail-if-starved=15", str(SCRIPT), "--case=loader", f"--truth={tmp_path}")
    assert done.returncode == 1, "torchrun reports the exit code 3 of a rank as its own 1"
    printed = in_one_line(done.stderr)
    assert printed.count("rank 1 (node ") == printed.count("is the straggler") == 1
    assert printed.count(" on 2 ranks: starved of data ") == 1
    assert ", rank 1: starved of data " in printed
    assert "--fail-if-starved 15 was not passed" in printed, "the first rank alone waits less than that"
    straggler = result(tmp_path)["straggler"]
    assert (straggler["rank"], straggler["cause"]) == (1, "loader")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "ranks"), [("device", 2), ("device", 4), ("loader", 4), ("moving", 2), ("moving", 4), ("fed", 4)]
)
def test_the_straggler_and_its_cause(case: str, ranks: int, tmp_path: Path) -> None:
    done = torchrun(tmp_path, ranks, str(SCRIPT), f"--case={case}")
    assert done.returncode == 0
    content = result(tmp_path)
    assert content["notes"] == []
    assert len(content["ranks"]) == ranks
    straggler = content["straggler"] or {"rank": None, "cause": None}
    assert (straggler["rank"], straggler["cause"]) == EXPECTED[case]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["dies", "raises"])
def test_a_rank_that_ends_early_leaves_a_verdict(what: str, tmp_path: Path) -> None:
    """torchrun sends SIGTERM to the other rank, which prints its verdict and then ends by that signal."""
    done = loop(tmp_path, what)
    assert done.returncode == 1
    assert "trained" not in done.stdout
    content = result(tmp_path)
    assert content["figures"]
    assert [entry["rank"] for entry in content["ranks"]] == [0, 1]
    assert bool(content["ranks"][1]["reason"]) is (what == "dies")
    if what == "dies":
        assert "rank 1: it sent no result" in in_one_line(done.stderr)


@pytest.mark.slow
def test_without_ddp_only_waits_are_compared(tmp_path: Path) -> None:
    done = loop(tmp_path, "no ddp")
    assert done.returncode == 0
    assert "could not be separated" in in_one_line(done.stderr)
    assert [entry["own_compute_ms"] for entry in result(tmp_path)["ranks"]] == [None, None]


@pytest.mark.slow
def test_ranks_without_a_process_group_are_not_compared(tmp_path: Path) -> None:
    done = loop(tmp_path, "no group")
    assert done.returncode == 0
    assert done.stdout.count("trained") == 2
    assert " ranks" not in done.stderr
    assert "ranks" not in result(tmp_path)


@pytest.mark.slow
def test_ranks_that_another_launcher_started_measure_themselves(tmp_path: Path) -> None:
    """The store of the process group may end with the first rank, so it is not used."""
    (tmp_path / "train.py").write_text(LOOP, encoding="utf-8")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    variables = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", *WATCH, "train.py", "ddp"],
            cwd=tmp_path,
            env=environment(RANK=str(rank), **variables),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    printed = [process.communicate(timeout=PATIENCE_S)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert "only torchrun has a store" in in_one_line(printed[0])
    assert "train.py, rank 1: " in printed[1]

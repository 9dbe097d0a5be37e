"""``loaderlab watch`` around a training script: the verdict, its files, the gate, several ranks. Real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WATCHED = [sys.executable, "-m", "loaderlab", "watch"]
SCRIPT = """
import sys
import time

import torch
from torch.utils.data import DataLoader, Dataset


class Sleeping(Dataset):
    def __init__(self, seconds):
        self.seconds = seconds

    def __len__(self):
        return 160

    def __getitem__(self, index):
        time.sleep(self.seconds)
        return torch.zeros(4)


def train(loader, step_s, after=lambda index: None):
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for index, batch in enumerate(loader):
        model(batch).sum().backward()
        time.sleep(step_s)
        optimizer.step()
        optimizer.zero_grad()
        after(index)


if __name__ == "__main__":
    what = sys.argv[1]
    seconds, step_s = (0.002, 0.002) if what != "fed" else (0, 0.02)
    loader = DataLoader(Sleeping(seconds), batch_size=4, num_workers=what == "workers", multiprocessing_context="spawn" if what == "workers" else None)

    def after(index):
        if what == "raise" and index == 30:
            raise ValueError("bad batch")
        if what == "exit" and index == 30:
            sys.exit(7)
        if what == "hang" and index == 30:
            print("hanging", flush=True)
            time.sleep(60)

    train(loader, step_s, after)
    print("trained")
    if what == "exit 0":
        sys.exit(0)
"""
LINE = 1 + next(number for number, line in enumerate(SCRIPT.splitlines()) if "loader = DataLoader(" in line)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text(SCRIPT)
    return tmp_path


def watch(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*WATCHED, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )


def result(folder: Path, name: str = "result.json") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / name).read_text())
    return content


def test_a_starved_script_with_its_files(folder: Path) -> None:
    ended = watch(folder, "--json", "result.json", "--html", "result.html", "train.py", "starved")
    assert (ended.returncode, ended.stdout) == (0, "trained\n")
    assert ended.stderr.startswith("loaderlab: train.py: starved of data ")
    assert f"Loader: DataLoader made at train.py:{LINE} (0 workers, batch size 4)" in ended.stderr
    assert "Try DataLoader(num_workers=" in ended.stderr
    content = result(folder)
    assert content["verdict"] == "starved"
    assert content["bottleneck"] == "loader"
    assert content["headroom_x"] > 1.25
    assert content["advice"][0].startswith("DataLoader(num_workers=")
    assert content["figures"]["starvation/starved_pct"] > 20
    assert content["loader"]["made_at"] == f"train.py:{LINE}"
    assert content["others"] == []
    assert "starved of data" in (folder / "result.html").read_text()


@pytest.mark.slow
def test_a_fed_script_passes_the_gate(folder: Path) -> None:
    ended = watch(folder, "--fail-if-starved", "80", "train.py", "fed")
    assert (ended.returncode, ended.stdout) == (0, "trained\n"), ended.stderr
    assert "starved of data " in ended.stderr
    assert "the gate" not in ended.stderr


@pytest.mark.parametrize("what", ["starved", "exit 0"])
def test_a_starved_script_does_not_pass_the_gate(folder: Path, what: str) -> None:
    ended = watch(folder, "--fail-if-starved=20", "train.py", what)
    assert (ended.returncode, ended.stdout) == (3, "trained\n")
    assert "the gate --fail-if-starved 20 was not passed" in ended.stderr


@pytest.mark.slow
def test_a_gate_that_cannot_be_judged_is_not_passed(folder: Path) -> None:
    ended = watch(folder, "--fail-if-starved", "20", "--steps", "12", "train.py", "fed")
    assert ended.returncode == 3
    assert "only 7 steps were measured" in ended.stderr
    assert "the gate --fail-if-starved could not be judged" in ended.stderr


@pytest.mark.parametrize(("what", "code"), [("raise", 1), pytest.param("exit", 7, marks=pytest.mark.slow)])
def test_the_scripts_own_failure_takes_precedence_over_the_gate(folder: Path, what: str, code: int) -> None:
    ended = watch(folder, "--fail-if-starved", "1", "--json", "result.json", "train.py", what)
    assert ended.returncode == code
    assert "starved of data" in ended.stderr
    assert ("ValueError: bad batch" in ended.stderr) == (what == "raise")
    assert result(folder)["verdict"] == "starved"


def test_an_interrupt_prints_the_verdict_and_passes_through(folder: Path) -> None:
    process = subprocess.Popen(
        [*WATCHED, "--json", "result.json", "train.py", "hang"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "hanging\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt\nloaderlab: train.py: starved of data " in errors
    assert result(folder)["verdict"] == "starved"


@pytest.mark.slow
def test_workers_that_are_spawned(folder: Path) -> None:
    ended = watch(folder, "--json", "result.json", "train.py", "workers")
    assert (ended.returncode, ended.stdout) == (0, "trained\n")
    assert result(folder)["loader"]["num_workers"] == 1


@pytest.mark.slow
def test_each_rank_has_its_own_files_and_the_first_prints_the_verdict(folder: Path) -> None:
    arguments = ("--json", "result.json", "train.py", "starved")
    first = watch(folder, *arguments, RANK="0", LOCAL_WORLD_SIZE="2")
    second = watch(folder, *arguments, RANK="1", LOCAL_WORLD_SIZE="2")
    assert len(first.stderr.splitlines()) > 3
    assert second.stderr.startswith("loaderlab: train.py, rank 1: starved of data ")
    assert len(second.stderr.splitlines()) == 1
    assert result(folder)["verdict"] == result(folder, "result.rank1.json")["verdict"] == "starved"


@pytest.mark.slow
def test_a_module_is_watched(folder: Path) -> None:
    ended = watch(folder, "-m", "train", "starved")
    assert (ended.returncode, ended.stdout) == (0, "trained\n")
    assert "loaderlab: train: starved of data" in ended.stderr

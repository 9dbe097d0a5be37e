"""The name of a command in messages is the one that was typed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from loaderlab.config import PROJECT
from loaderlab.system.program import command, prefix


@pytest.mark.parametrize(
    ("program", "installed", "typed"),
    [
        ("/home/me/.venv/bin/loaderlab", True, "loaderlab "),
        ("/home/me/.venv/bin/loaderlab", False, "loaderlab "),
        ("/lib/python3.12/site-packages/loaderlab/__main__.py", True, "python -m loaderlab "),
        ("/home/me/loaderlab/experiments/train.py", False, "python -m experiments."),
        ("train_my_model.py", True, "loaderlab "),
        ("/lib/python3.12/site-packages/pytest/__main__.py", False, "python -m experiments."),
        ("", True, "loaderlab "),
    ],
)
def test_what_stands_before_the_command(program: str, installed: bool, typed: str) -> None:
    assert prefix(program, installed=installed) == typed


def test_without_arguments_it_still_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [])
    assert command("train") == "python -m experiments.train"


@pytest.mark.parametrize("typed", ["python -m experiments.train", "python -m loaderlab train"])
def test_help_shows_what_was_typed(typed: str) -> None:
    done = subprocess.run(
        [sys.executable, *typed.split()[1:], "--help"], cwd=PROJECT, capture_output=True, text=True, timeout=60
    )
    assert f"  {typed} loader=dali precision=bf16" in done.stdout.splitlines()[2]


CHILD = """
import multiprocessing
from loaderlab.system.program import command

def say():
    print(command("compare"), flush=True)

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=say)
    process.start()
    process.join()
"""


def test_a_process_of_a_sweep_knows_the_name_too(tmp_path: Path) -> None:
    """The console script of an installed package starts its jobs by the same module."""
    script = tmp_path / "loaderlab"
    script.write_text(CHILD)
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "src")}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "loaderlab compare\n", done.stderr

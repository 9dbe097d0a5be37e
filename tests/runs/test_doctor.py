"""The doctor as a command, and what it does with a run that would fail."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from loaderlab.config import PROJECT, Failed, TrainConfig
from loaderlab.runs import doctor
from loaderlab.system.terminal import Terminal


def test_the_doctor_is_a_command(store_uri: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.doctor", f"tracking.uri={store_uri}", "device=cpu"]
    command.append(f"checkpoint.dir={tmp_path / 'outputs'}")
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)
    names = ["clock", "encoding", "user", "folders", "cores", "memory", "open files", "/dev/shm", "temporary files"]
    names += ["outputs", "store", "store's disk", "driver", "device"]
    lines = done.stdout.splitlines()
    assert [line[9:27].strip() for line in lines] == names, done.stderr
    assert done.returncode == any(line.startswith("fails") for line in lines)


def test_a_run_that_would_fail_is_an_error(make_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    terminal = Terminal()
    (tmp_path / "file").write_text("", encoding="utf-8")
    config = make_config(f"tracking.uri=sqlite:///{tmp_path / 'file' / 'm.db'}", "device=cpu")
    with pytest.raises(Failed, match="a run would fail: .*store"):
        doctor.examine(config, terminal)
    (line,) = [text for text in terminal.said if text.startswith("fails    store")]
    assert "Type for example: tracking.uri=" in line


@pytest.mark.parametrize("arguments", [["-m", "seed=1,2"], ["study=ladder"]])
def test_a_sweep_is_refused(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "experiments.doctor", *arguments]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: the doctor checks one run")

"""The entry points' main: its arguments are those that it is given."""

from __future__ import annotations

import os
import sys

import pytest

from loaderlab.cli.main import main
from loaderlab.config import PROJECT, TrainConfig


def test_arguments_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["train", "--nosuch", "batch_size=1"]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    configs: list[TrainConfig] = []

    def job(config: TrainConfig, overrides: list[str]) -> None:
        configs.append(config)
        assert overrides == ["batch_size=2"]

    assert main("train", TrainConfig, job, ["batch_size=2"]) == 0
    assert [config.batch_size for config in configs] == [2]
    assert sys.argv is argv
    assert argv == ["train", "--nosuch", "batch_size=1"]
    assert "HYDRA_FULL_ERROR" not in os.environ


def test_nothing_else_reads_the_command_line() -> None:
    package = PROJECT / "src"
    reading = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if "argv" in path.read_text()} - {
        "loaderlab/meter/nvml.py"
    }  # a program of its own: the process beside the run
    assert reading == {"loaderlab/cli/main.py", "loaderlab/cli/entry.py", "loaderlab/system/program.py"}


def test_frames_of_an_error_where_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match="batch_size=0"):
        main("train", TrainConfig, lambda *_: None, ["batch_size=0"])
    assert os.environ["HYDRA_FULL_ERROR"] == "1"

"""`main` uses only the arguments that are passed to it, not `sys.argv`."""

from __future__ import annotations

import os
import sys

import pytest

from loaderlab.cli.main import main
from loaderlab.config import PROJECT, TrainConfig


def test_main_ignores_and_restores_sys_argv(monkeypatch: pytest.MonkeyPatch) -> None:
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
    readers = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if "argv" in path.read_text()} - {
        "loaderlab/meter/nvml.py",  # a separate program: the process that measures the run
        "loaderlab/attach/recording.py",  # another one
        "loaderlab/attach/launching.py",  # which starts it
        "loaderlab/tuning/script_trial.py",  # and this one: a trial of a user's script
        "loaderlab/lines/ticker.py",  # and this one: the process that asks a worker for its stacks
        "loaderlab/system/forked.py",  # Python's own command line, to recognise the standard library's fork server
    }
    assert readers == {
        "loaderlab/attach/script.py",  # sets it for the user's script
        "loaderlab/cli/main.py",
        "loaderlab/cli/entry.py",
        "loaderlab/system/program.py",
    }


def test_the_traceback_of_an_error_is_shown_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match="batch_size=0"):
        main("train", TrainConfig, lambda *_: None, ["batch_size=0"])
    assert os.environ["HYDRA_FULL_ERROR"] == "1"

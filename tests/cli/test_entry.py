"""The program ``loaderlab``: its commands, its help and its version."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys

import pytest

import loaderlab
from loaderlab.cli.entry import COMMANDS, start
from loaderlab.cli.exit_table import lines
from loaderlab.config import PROJECT


def test_help_names_every_command_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert start(["--help"]) == 0
    page = capsys.readouterr().out
    for name, text in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(text)}$", page, re.MULTILINE)
    assert "\n".join(lines()) in page


def test_the_version_is_in_one_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert start(["--version"]) == 0
    assert capsys.readouterr().out == f"loaderlab {loaderlab.__version__}\n"
    assert f"\n## {loaderlab.__version__} " in (PROJECT / "CHANGELOG.md").read_text()
    assert 'version = { attr = "loaderlab.__version__" }' in (PROJECT / "pyproject.toml").read_text()


def test_a_missing_command_prints_the_help_and_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert start([]) == 2
    printed = capsys.readouterr()
    assert "Commands" in printed.out
    assert "a command is needed" in printed.err


def test_an_unknown_command_is_an_error_with_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert start(["trian", "steps=40"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "trian: there is no such command. Did you mean train?" in printed.err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_module_and_its_entry_in_the_checkout(name: str) -> None:
    """`python -m experiments.NAME` and `loaderlab NAME` are the same program."""
    experiment = importlib.import_module(f"experiments.{name}")
    assert experiment.start is importlib.import_module(f"loaderlab.cli.{name}").start


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_ends_with_the_exit_codes(name: str) -> None:
    command = [sys.executable, "-m", "loaderlab", name, "--help"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\n".join(lines()) in done.stdout
    assert "experiments." not in done.stdout
    assert f"python -m loaderlab {name}" in done.stdout

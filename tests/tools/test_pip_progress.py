"""What the installation prints: names and sizes of downloads, pip's own errors, pip's exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from loaderlab.config import PROJECT
from tools import pip_progress

OUTPUT = """Looking in indexes: https://example.org/simple
Processing /checkout
Collecting torch>=2.11 (from loaderlab==0.2.0)
  Downloading torch-2.15.0-cp312-cp312-manylinux_2_28_x86_64.whl.metadata (30 kB)
Downloading https://example.org/files/torch-2.15.0%2Bcu130-cp312-cp312-manylinux_2_28_x86_64.whl (899.7 MB)
Using cached nvidia_cudnn_cu13-9.26.0.51-py3-none-linux_x86_64.whl (1.2 GB)
Downloading six-1.17.0-py2.py3-none-any.whl (11 kB)
Installing collected packages: torch, nvidia-cudnn-cu13, six
Successfully installed torch-2.15.0
"""


def test_large_files_are_named_with_their_sizes() -> None:
    assert list(pip_progress.progress(OUTPUT.splitlines(), 146)) == [
        "downloading torch 2.15.0+cu130 (900 MB) … 1 of 146",
        "from pip's cache: nvidia-cudnn-cu13 9.26.0.51 (1.2 GB) … 2 of 146",
        "unpacking 3 packages; this takes a minute or two for a hundred packages",
    ]


def test_reading_the_list_of_packages_is_not_silent() -> None:
    lines = [f"Collecting package{number}" for number in range(60)]
    assert list(pip_progress.progress(lines, 0)) == [f"reading the list of packages … {count}" for count in (25, 50)]


def test_a_file_on_this_machine_has_a_size(tmp_path: Path) -> None:
    wheel = tmp_path / "numpy-2.4.6-cp312-cp312-manylinux_2_28_x86_64.whl"
    wheel.write_bytes(bytes(2_000_000))
    (line,) = pip_progress.progress([f"Processing {wheel} (from loaderlab)"], 3)
    assert line == "from a local folder: numpy 2.4.6 (2 MB) … 1 of 3"
    assert list(pip_progress.progress(["Processing /nosuch/numpy-2.4.6.whl"], 3)) == []


def test_the_pins_are_counted() -> None:
    count = sum("==" in line for line in (PROJECT / "constraints.txt").read_text().splitlines())
    assert count > 100
    constraints = str(PROJECT / "constraints.txt")
    assert pip_progress.pins(["--constraint", constraints, "--editable", ".[dev]"]) == count
    assert pip_progress.pins(["rich"]) == 0


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-torch-2.11.txt"])
def test_every_constraint_is_one_pin(file: str) -> None:
    for line in (PROJECT / file).read_text().splitlines():
        name, equals, version = line.partition("==")
        assert name.replace("-", "").replace("_", "").replace(".", "").isalnum(), line
        assert equals, line
        assert version[0].isdigit(), line


def test_pips_error_and_exit_code_are_kept() -> None:
    command = [sys.executable, "-m", "tools.pip_progress", "--no-index", "nosuchpackage"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "No matching distribution found for nosuchpackage" in done.stderr
    assert "pip failed with exit code 1" in done.stderr
    assert "installed in" not in done.stdout


def test_make_keeps_the_exit_code(tmp_path: Path) -> None:
    """A failed installation ends ``make`` and leaves no mark that the environment is complete."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((PROJECT / name).read_text())
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "pip_progress.py").write_text("import sys; sys.exit('pip said no')")
    python = tmp_path / "python"  # makes the environment at once, without pip
    python.write_text(f"#!/bin/sh\nmkdir -p .venv/bin && ln -s {sys.executable} .venv/bin/python\n")
    python.chmod(0o755)
    command = ["make", "install", f"PYTHON={python}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "pip said no" in done.stderr
    assert not (tmp_path / ".venv" / ".installed").exists()

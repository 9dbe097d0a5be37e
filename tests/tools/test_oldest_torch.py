"""The tests on the oldest torch that is supported: ``make test-torch-2.11``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from loaderlab.config import PROJECT

PINS = "constraints-torch-2.11.txt"
TARGET = "test-torch-2.11"


# `make test` passes its own flags on to a `make` below it
WITHOUT_MAKE = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}


def pins() -> dict[str, str]:
    lines = (PROJECT / PINS).read_text().splitlines()
    return {name: version for name, _, version in (line.partition("==") for line in lines)}


@pytest.mark.parametrize("package", ["torch", "torchcodec"])
def test_the_oldest_version_that_may_be_installed_is_tested(package: str) -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    (bound,) = [match[1] for names in lists for name in names if (match := re.match(rf"{package}>=([\d.]+)", name))]
    assert pins()[package].startswith(f"{bound}.")


def test_every_test_that_imports_torch_is_one_of_them() -> None:
    command = ["make", "-n", TARGET]
    done = subprocess.run(
        command, cwd=PROJECT, env=WITHOUT_MAKE, capture_output=True, text=True, timeout=60, check=True
    )
    chosen = [PROJECT / word for word in done.stdout.splitlines()[-1].split() if word.startswith("tests/")]
    tests = [
        path
        for path in (PROJECT / "tests").rglob("test_*.py")
        if re.search("^ *(import|from) torch", path.read_text(), re.M)
    ]
    assert len(tests) > 20
    for path in tests:
        assert path in chosen or any(folder in path.parents for folder in chosen), path
    folders = {path.name for path in chosen if path.is_dir()}
    assert {"attach", "device", "loaders", "meter", "probes", "runs", "trace", "training"} <= folders


def test_a_failed_installation_runs_no_test_and_is_a_failure(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt", PINS):
        (tmp_path / name).write_text((PROJECT / name).read_text())
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "pip_progress.py").write_text("import sys; sys.exit('pip said no')")
    installed = tmp_path / ".venv" / ".installed"
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    installed.touch()
    done = subprocess.run(["make", TARGET], cwd=tmp_path, env=WITHOUT_MAKE, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "pip said no" in done.stderr
    assert "error: torch 2.11 was not installed, so its tests did not run" in done.stdout
    assert "pytest" not in done.stdout
    assert not (tmp_path / ".venv" / "torch-2.11").exists()

"""Supported operating systems, in the code, the package's metadata and the README."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest

from loaderlab.cli import ui
from loaderlab.cli.main import main
from loaderlab.cli.platforms import unsupported
from loaderlab.config import PROJECT, TrainConfig


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_linux_and_macos_are_accepted(platform: str) -> None:
    assert unsupported(platform) == ""


def test_windows_is_rejected() -> None:
    assert "does not run on Windows" in unsupported("win32")
    assert "WSL2" in unsupported("win32")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-m", "repeat=1,2"]])
def test_no_command_starts_on_windows(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(*_: object) -> None:
        raise AssertionError("Hydra was started")

    monkeypatch.setattr("loaderlab.cli.main.register", start)
    monkeypatch.setattr("loaderlab.cli.main._run", start)
    monkeypatch.setattr(sys, "platform", "win32")
    assert main("train", TrainConfig, lambda *_: None, arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [f"error: {unsupported('win32')}"]


def test_the_ui_rejects_windows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert ui.start([]) == 1
    assert capsys.readouterr().err.splitlines() == [f"error: {unsupported('win32')}"]


WITHOUT_POSIX = """
import os, signal, sys, time
import {packages}
for name in ("fcntl", "grp", "posix", "pwd", "resource", "termios"):
    sys.modules[name] = None
for module, names in (
    (signal, "SIGUSR1 SIGUSR2 SIGKILL SIGALRM sigtimedwait pthread_sigmask"),
    (os, "fork getppid killpg posix_fadvise sched_getaffinity sysconf uname"),
    (time, "clock_gettime CLOCK_BOOTTIME CLOCK_MONOTONIC"),
):
    for name in names.split():
        delattr(module, name)
import {module}
print("imported")
"""


@pytest.mark.parametrize(
    ("packages", "module"),
    [
        (
            "torch.utils.data, numpy, scipy.stats, psutil, rich.console, multiprocessing.connection",
            "loaderlab.attach.watch",
        ),
        ("hydra, omegaconf, psutil, rich.console, multiprocessing.connection", "loaderlab.cli.main, experiments.train"),
    ],
)
def test_imports_need_no_posix_module(packages: str, module: str) -> None:
    """Modules that Windows lacks are removed after third-party packages are imported, and before ours are."""
    code = WITHOUT_POSIX.format(packages=packages, module=module)
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "imported\n", done.stderr


def test_the_package_and_the_readme_name_the_supported_systems() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    systems = [text for text in project["classifiers"] if text.startswith("Operating System")]
    assert systems == ["Operating System :: POSIX :: Linux"]
    readme = (PROJECT / "README.md").read_text()
    for text in ("Linux is supported and tested", "macOS may work and is untested", "Windows is not supported"):
        assert text in readme

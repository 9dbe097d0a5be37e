"""Builds the wheel from the checkout and installs it into virtual environments with some or all of the current packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

from loaderlab.config import PROJECT

SOURCES = ("src", "conf", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md")
PACKAGES = Path(sysconfig.get_path("purelib"))


def build(folder: Path) -> Path:
    """The wheel, built offline from a copy, because setuptools leaves its build folder in the sources."""
    sources = folder / "sources"
    sources.mkdir()
    for name in SOURCES:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, sources / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, sources / name)
    offline = ["--no-index", "--no-deps", "--no-build-isolation"]
    _run([sys.executable, "-m", "pip", "wheel", "--quiet", *offline, "--wheel-dir", str(folder), str(sources)])
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """The ``bin`` folder of a new virtual environment that contains only the wheel."""
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    _run([*pip, "install", "--quiet", "--no-index", "--no-deps", str(wheel)])
    return python.parent


def packages_of(binaries: Path) -> Path:
    """The folder with an environment's packages."""
    (folder,) = binaries.parent.glob("lib/python*/site-packages")
    return folder


def link_packages(binaries: Path, names: list[str]) -> None:
    """Links some of the current packages and their requirements into an environment."""
    target = packages_of(binaries)
    for entry in sorted({entry for name in _with_requirements(names) for entry in _entries(name)}):
        link = target / entry
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(PACKAGES / entry)


def show_all_packages(binaries: Path) -> None:
    """Makes all current packages visible in an environment, except editable installations."""
    (packages_of(binaries) / "all.pth").write_text(f"{PACKAGES}\n")


def clean_environment() -> dict[str, str]:
    """This process's environment variables, without the folders that make the checkout importable."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _with_requirements(names: list[str]) -> set[str]:
    """Those of the packages that are installed here, and all their requirements."""
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        try:
            requirements = [Requirement(text) for text in distribution(name).requires or []]
        except PackageNotFoundError:
            continue
        seen.add(name)
        for requirement in requirements:
            extras = [{"extra": extra} for extra in requirement.extras] or [{"extra": ""}]
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
                waiting += [
                    inner.name
                    for inner in _requirements(requirement.name)
                    if inner.marker is not None and any(inner.marker.evaluate(extra) for extra in extras)
                ]
    return seen


def _requirements(name: str) -> list[Requirement]:
    try:
        return [Requirement(text) for text in distribution(name).requires or []]
    except PackageNotFoundError:
        return []


def _entries(name: str) -> set[Path]:
    """The entries of a package in the packages folder; in a shared folder such as ``nvidia``, only its own part."""
    entries = set()
    for file in distribution(name).files or []:
        depth = 2 if file.parts[0] in ("nvidia", "cuda") else 1
        if file.parts[0] not in ("..", "__pycache__") and len(file.parts) >= depth:
            entries.add(Path(*file.parts[:depth]))
    return entries


def _run(command: list[str]) -> None:
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr

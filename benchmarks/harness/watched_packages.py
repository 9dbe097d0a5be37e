"""The folder with the frameworks and with TraceML: two virtual environments on top of the packages of this Python."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FRAMEWORKS = ("transformers==5.24.0", "lightning==2.6.6", "accelerate==1.15.0")
TRACEML = ("traceml-ai==0.5.0",)
DEFAULT = Path(tempfile.gettempdir()) / "loaderlab_watched"


@dataclass(frozen=True)
class Pythons:
    """The interpreters.

    Attributes:
        frameworks: has the frameworks.
        traceml: also has TraceML; its own environment, since it may need other versions.
    """

    frameworks: Path
    traceml: Path


def installed(folder: Path, *, traceml: bool) -> Pythons:
    """The interpreters in a folder, which are installed if they are not there. torch is not installed a second time."""
    parent = sysconfig.get_path("purelib")
    frameworks = _environment(folder / "frameworks", FRAMEWORKS, [parent])
    if traceml:
        _environment(folder / "traceml", TRACEML, [parent, str(_packages(folder / "frameworks"))])
    return Pythons(frameworks, _python(folder / "traceml"))


def python_with(folder: Path, packages: Sequence[str]) -> Path:
    """The interpreter in a folder with these packages on top of those of this Python; they are installed if they are not there."""
    return _environment(folder, packages, [sysconfig.get_path("purelib")])


def environment() -> dict[str, str]:
    """The environment variables of the scripts: they import this checkout."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "PYTHONWARNINGS": "ignore"}


def _environment(folder: Path, packages: Sequence[str], parents: Sequence[str]) -> Path:
    """The interpreter of an environment."""
    complete = folder / "installed.txt"
    wanted = "\n".join(packages) + "\n"
    if complete.exists() and complete.read_text(encoding="utf-8") == wanted:
        return _python(folder)
    print(f"installing {', '.join(packages)} into {folder}", flush=True)
    venv.create(folder, with_pip=True, clear=True, symlinks=True)
    (_packages(folder) / "parents.pth").write_text("\n".join(parents) + "\n", encoding="utf-8")
    command = [str(_python(folder)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    subprocess.run(command, check=True)
    complete.write_text(wanted, encoding="utf-8")
    return _python(folder)


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _packages(folder: Path) -> Path:
    return folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"

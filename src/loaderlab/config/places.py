"""Where the configuration files are, and the folder that ``mlruns/`` belongs to: in a checkout and in an installed package."""

from __future__ import annotations

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[3]  # root of the checkout; means nothing in an installed package
_IN_PACKAGE = Path(__file__).resolve().parents[1] / "conf"  # only a wheel has it
INSTALLED = _IN_PACKAGE.is_dir()
CONF = _IN_PACKAGE if INSTALLED else PROJECT / "conf"


def store_root() -> Path:
    """The folder of the default store: the checkout, or the working folder if the package was installed from a wheel."""
    return Path.cwd() if INSTALLED else PROJECT

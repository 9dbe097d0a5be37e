"""Copies conf/ into the wheel as loaderlab/conf. Everything else about the package is in pyproject.toml.

A ``package-dir`` entry for conf/ would do the same, but then an editable install no longer adds src/ as a plain folder to
the path: setuptools switches to import hooks, which type checkers and editors do not read.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CONF = Path(__file__).parent / "conf"


class BuildWithConf(build_py):
    """Builds the Python files, then adds conf/; an editable install uses conf/ where it is."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "loaderlab" / "conf"
            shutil.rmtree(target, ignore_errors=True)  # of an earlier build
            shutil.copytree(CONF, target)


setup(cmdclass={"build_py": BuildWithConf})

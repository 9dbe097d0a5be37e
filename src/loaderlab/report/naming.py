"""The names of result files: those of an emulated accelerator contain ``emulated``."""

from __future__ import annotations

from pathlib import PurePath

from loaderlab.config import EMULATED


def named(name: str, *, emulated: bool) -> str:
    """The name of a result file.

    >>> named("steps.csv", emulated=True), named("steps.csv", emulated=False)
    ('steps_emulated.csv', 'steps.csv')
    """
    path = PurePath(name)
    return str(path.with_stem(f"{path.stem}_{EMULATED}")) if emulated else name

"""The words that mark the results of emulated accelerators."""

from __future__ import annotations

from collections.abc import Sequence

from loaderlab.config import EMULATED
from loaderlab.tracking.records import RunRecord


def mark_of(runs: Sequence[RunRecord]) -> str:
    """``emulated feedforward accelerator``, or ``emulated accelerators`` if there are several; empty for real devices.

    Args:
        runs: of one kind.
    """
    if not any(run.is_emulated for run in runs):
        return ""
    names = {run.settings.get("accelerator.name", "") for run in runs} - {""}
    return f"{EMULATED} {names.pop()} accelerator" if len(names) == 1 else f"{EMULATED} accelerators"


def marked(label: str, *, emulated: bool) -> str:
    """A label of results, which contains the word if they are emulated.

    >>> marked("native", emulated=True)
    'emulated native'
    """
    return f"{EMULATED} {label}" if emulated and EMULATED not in label.split() else label

"""The command that follows a run's first advice."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from loaderlab.diagnosis.evidence import Advice, as_override


def next_command(program: str, overrides: Sequence[str], advice: Sequence[Advice]) -> str:
    """What to type to follow the first advice that a setting can follow; empty if there is none.

    Args:
        program: the start of the command, such as ``loaderlab train``.
        overrides: those of the run. What the advice replaces is left out: the setting itself, and with another choice of a
            group all settings of the choice before it.
    """
    for entry in advice:
        if not entry.setting:
            continue
        kept = [text for text in overrides if not _replaced(_key(text), entry.setting)]
        return " ".join([program, *(shlex.quote(text) for text in [*kept, as_override(entry)])])
    return ""


def _key(override: str) -> str:
    return override.split("=", 1)[0].lstrip("+~")


def _replaced(key: str, setting: str) -> bool:
    return key == setting or key.startswith(f"{setting}.")

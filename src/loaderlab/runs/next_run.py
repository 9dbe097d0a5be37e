"""The command that follows a run's first advice."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from loaderlab.diagnosis.evidence import Advice, as_override


def next_command(program: str, overrides: Sequence[str], advice: Sequence[Advice]) -> str:
    """The command that follows the first advice with a setting; empty if there is no such advice.

    Args:
        program: the start of the command, such as ``loaderlab train``.
        overrides: those of the run. Overrides that the advice replaces are left out: the setting itself and, if the advice
            changes the choice of a group, all settings of the old choice.
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

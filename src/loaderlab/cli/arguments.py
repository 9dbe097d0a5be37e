"""The command-line arguments: Hydra's flags, and overrides such as ``loader=dali``."""

from __future__ import annotations

from collections.abc import Sequence

MULTIRUN = {"-m", "--multirun"}
HELP = {"-h", "--help"}


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether ``--help`` or ``-h`` is among the arguments, in any position."""
    return not HELP.isdisjoint(arguments)


def asks_for_sweep(arguments: Sequence[str]) -> bool:
    """Whether ``-m`` or ``--multirun`` is among the arguments. A study is a sweep even without the flag."""
    return not MULTIRUN.isdisjoint(arguments)


def overrides_of(arguments: Sequence[str]) -> list[str]:
    """The arguments that are not flags."""
    return [text for text in arguments if not text.startswith("-")]


def multirun_first(arguments: Sequence[str]) -> list[str]:
    """The same arguments with ``-m`` first, because argparse accepts no flag between two overrides."""
    return sorted(arguments, key=lambda text: text not in MULTIRUN)

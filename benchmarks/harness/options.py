"""Options of the benchmarks' commands. Imports nothing heavy, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import re


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the description's lines and shows each default that is a value."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or isinstance(action.default, bool):
            return action.help
        return super()._get_help_string(action)


def parser(description: str | None) -> argparse.ArgumentParser:
    """An empty parser with a module's docstring as its description."""
    return argparse.ArgumentParser(description=description, formatter_class=_Formatter)


def number_above_0(text: str) -> float:
    """Raises argparse.ArgumentTypeError for anything that is not a number above 0."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: must be a number") from None
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text}: must be above 0")
    return value


def count(text: str) -> int:
    """Raises argparse.ArgumentTypeError for anything that is not a whole number above 0."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be above 0")
    return value


def size(text: str) -> str:
    """``500x375``. Raises argparse.ArgumentTypeError for anything else."""
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text}: must be WIDTHxHEIGHT, like 500x375")
    return text

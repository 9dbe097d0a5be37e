"""Options of the benchmarks' commands. Imports nothing heavy, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import re


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description and shows every default that is a value."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or isinstance(action.default, bool):
            return action.help
        return super()._get_help_string(action)


def parser(description: str | None) -> argparse.ArgumentParser:
    """An empty parser with a module's docstring as its description."""
    return argparse.ArgumentParser(description=description, formatter_class=_Formatter)


def number_above_0(text: str) -> float:
    """The number; raises argparse.ArgumentTypeError unless it is above 0."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: must be a number") from None
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text}: must be above 0")
    return value


def count(text: str) -> int:
    """The whole number; raises argparse.ArgumentTypeError unless it is above 0."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be above 0")
    return value


def size(text: str) -> str:
    """A size like ``500x375``; raises argparse.ArgumentTypeError for any other text."""
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text}: must be WIDTHxHEIGHT, like 500x375")
    return text

"""A comparison on the terminal: its sentences, its tables, and what was not measured."""

from __future__ import annotations

from loaderlab.compare.arms import Comparison
from loaderlab.compare.kinds import has_kind_in_title
from loaderlab.report import sentences
from loaderlab.report.arm_table import arm_table, group_title
from loaderlab.system.terminal import Terminal


def show(comparison: Comparison, terminal: Terminal) -> None:
    """Prints the headline, the tables and the caveats on the terminal."""
    terminal.say()
    if has_kind_in_title(comparison):
        terminal.say(comparison.title)
    for line in sentences.headline(comparison):
        terminal.say(line)
    show_tables(comparison, terminal)
    for line in sentences.remarks(comparison):
        terminal.say(f"note: {line}")
    for entry in comparison.missing:
        terminal.say(f"not measured: {entry.name}: {entry.why}")


def show_tables(comparison: Comparison, terminal: Terminal) -> None:
    """Prints the table of each group's arms on the terminal."""
    for group in comparison.groups:
        terminal.table(group_title(comparison, group) or comparison.title, *arm_table(comparison, group))

"""An answer on the terminal: its tables, its caveats and the last lines."""

from __future__ import annotations

from loaderlab.system.terminal import Terminal
from loaderlab.tuning.answer import Answer
from loaderlab.tuning.tables import tables, times
from loaderlab.tuning.typed import override_of, snippet
from loaderlab.tuning.words import Text, caveats, last_lines


def show(answer: Answer, terminal: Terminal, override: Text = override_of, code: Text = snippet) -> None:
    """Prints an answer. The confirmation is the last table, next to the lines that a reader looks for.

    Args:
        override, code: as in `loaderlab.tuning.words.last_lines`.
    """
    for table in reversed(tables(answer)):
        terminal.table(table.title, table.columns, table.rows)
    terminal.say(times(answer))
    for sentence in caveats(answer):
        terminal.say(f"note: {sentence}")
    if answer.missing:
        terminal.say(f"missing: {answer.missing}")
    for line in last_lines(answer, override, code):
        terminal.say(line)

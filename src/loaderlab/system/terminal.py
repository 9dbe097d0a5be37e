"""What a person reads while a run goes on: lines, progress, tables. Everything said is kept for ``log.txt``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

REDRAW_S = 0.5  # between two drawings of the bar: a drawing costs about a millisecond of the training process
PLAIN_WIDTH = 150  # characters
QUIET_S = 10.0  # between two plain lines of work of unknown length
PLAIN_LINES = 10  # of progress, where nobody looks at a terminal


def _console() -> Console:
    """stdout; as wide as a table needs where nobody's window bounds it."""
    return Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)


@dataclass
class Terminal:
    """Says things on stdout and keeps a plain copy of them."""

    console: Console = field(default_factory=_console)
    said: list[str] = field(default_factory=list)

    def say(self, text: str = "") -> None:
        self.console.print(text, markup=False, soft_wrap=True)
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.say(f"warning: {text}")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table, the first column to the left and the others to the right. The last columns are left out where the
        window is too narrow for them; the copy that is kept has them all."""
        shown = len(columns)
        while shown > 3 and _width(columns[:shown], [row[:shown] for row in rows]) > self.console.width:
            shown -= 1
        self.console.print(_table(title, columns[:shown], [row[:shown] for row in rows]))
        if shown < len(columns):
            self.console.print(f"(the window is too narrow for: {', '.join(columns[shown:])})", markup=False)
        plain = Console(file=StringIO(), width=max(PLAIN_WIDTH, _width(columns, rows)), highlight=False)
        plain.print(_table(title, columns, rows))
        assert isinstance(plain.file, StringIO)
        self.said.append(plain.file.getvalue())

    @contextmanager
    def progress(self, label: str, total: int | None) -> Iterator[Bar]:
        """A bar where a person looks, plain lines otherwise. ``total`` None: length unknown."""
        if not self.console.is_terminal:
            yield PlainBar(self, label, total)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self.console, auto_refresh=False, transient=True) as drawn:
            yield RichBar(drawn, drawn.add_task(label, total=total, note=""))


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold", no_wrap=index > 0)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _width(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Characters that a table takes with nothing folded but the first column, which keeps 24."""
    widths = [
        max(len(line) for cell in cells for line in cell.split("\n")) for cells in zip(columns, *rows, strict=True)
    ]
    return min(widths[0], 24) + sum(widths[1:]) + 3 * len(widths) + 1


class Bar:
    """Progress of one long piece of work."""

    def update(self, done: int, note: str = "") -> None:
        raise NotImplementedError

    def due(self, done: int) -> bool:
        """Whether `update` would show anything now: lets a caller spare itself the note."""
        raise NotImplementedError


class RichBar(Bar):
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task, self._next = progress, task, 0.0

    def due(self, done: int) -> bool:
        return time.perf_counter() >= self._next

    def update(self, done: int, note: str = "") -> None:
        self._next = time.perf_counter() + REDRAW_S
        self._progress.update(self._task, completed=done, note=note, refresh=True)


class PlainBar(Bar):
    """About `PLAIN_LINES` lines over the work, `QUIET_S` apart where its length is unknown."""

    def __init__(self, terminal: Terminal, label: str, total: int | None) -> None:
        self._terminal, self._label, self._total = terminal, label, total
        self._every = (total or 0) / PLAIN_LINES
        self._pause_s = REDRAW_S if total is not None else QUIET_S
        self._shown, self._next = 0, time.perf_counter() + self._pause_s

    def due(self, done: int) -> bool:
        return done - self._shown >= self._every and time.perf_counter() >= self._next

    def update(self, done: int, note: str = "") -> None:
        self._shown, self._next = done, time.perf_counter() + self._pause_s
        of = f"/{self._total}" if self._total is not None else ""
        self._terminal.say(f"{self._label} {done}{of} {note}".rstrip())

"""Output on the terminal: lines, progress bars, tables. All text is also stored for ``log.txt``."""

from __future__ import annotations

import errno
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

from loaderlab.system.streams import ReaderEnded, discard_stdout, lossy, print_any_character

REDRAW_S = 0.5  # between two updates of the bar: an update takes about 1 ms of the training process
PLAIN_WIDTH = 150  # characters
QUIET_S = 10.0  # between two plain lines of progress if the total is unknown
FIRST_COLUMN = 24  # minimum width of a table's first column, in characters, before other columns are left out
LEADING_COLUMNS = 3  # these and the last column are always shown
WARNING = "warning: "
PLAIN_LINES = 10  # of progress, if stdout is not a terminal


class _Console(Console):
    """A console that raises `ReaderEnded`; rich would raise SystemExit, which looks as if the user's code had ended the process."""

    def on_broken_pipe(self) -> None:
        discard_stdout()
        raise ReaderEnded(errno.EPIPE, "the reader of stdout has ended, as in … | head") from None


def _console() -> Console:
    """A console on stdout, with a fixed width if stdout is not a terminal."""
    print_any_character()
    return _Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)


@dataclass
class Terminal:
    """Prints on stdout, and keeps a plain copy of the text in ``said``."""

    console: Console = field(default_factory=_console)
    said: list[str] = field(default_factory=list)

    def say(self, text: str = "") -> None:
        with lossy():
            self.console.print(text, markup=False, soft_wrap=True)
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.say(f"{WARNING}{text}")

    @property
    def warnings(self) -> list[str]:
        """What it has warned of."""
        return [text.removeprefix(WARNING) for text in self.said if text.startswith(WARNING)]

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Prints a table: the first column is aligned left, the others right.

        If the window is too narrow, the headings are wrapped, the first column is folded, and the last one, which has the answer,
        is wrapped between words. Then columns before the last one are left out, starting from the right. The stored copy has all
        columns.
        """
        layout = _fitting(columns, rows, self.console.width)
        with lossy():
            self.console.print(_table(title, layout.headings, rows, layout))
            if left_out := [column for index, column in enumerate(columns) if index not in layout.shown]:
                self.console.print(f"(the window is too narrow for: {', '.join(left_out)})", markup=False)
        whole = _Layout(columns, range(len(columns)))
        first, *others = _widths(columns, rows, whole.shown)
        width = max(PLAIN_WIDTH, _total([min(first, FIRST_COLUMN), *others]))
        plain = Console(file=StringIO(), width=width, highlight=False)
        plain.print(_table(title, columns, rows, whole))
        assert isinstance(plain.file, StringIO)
        self.said.append(plain.file.getvalue())

    @contextmanager
    def progress(self, label: str, total: int | None) -> Iterator[Bar]:
        """A progress bar on a terminal, plain lines otherwise. ``total`` None: unknown."""
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
            yield RichBar(drawn, label, total)


def quiet_terminal() -> Terminal:
    """A terminal that prints nothing and only keeps the text."""
    return Terminal(Console(file=StringIO(), width=PLAIN_WIDTH, highlight=False))


@dataclass(frozen=True)
class _Layout:
    """Which columns of a table are shown.

    Attributes:
        headings: of all columns.
        shown: indices of the columns.
        first, last: width of the first and last shown column, in characters; None if their text fits.
    """

    headings: Sequence[str]
    shown: Sequence[int]
    first: int | None = None
    last: int | None = None


def _fitting(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> _Layout:
    """The layout with the most columns that fit: at least the leading ones and the last one, wrapped if necessary."""
    num_columns = len(columns)
    shown = list(range(num_columns))
    if num_columns < 2 or _total(_widths(columns, rows, shown)) <= width:
        return _Layout(columns, shown)
    # the heading of the last column must stay in one line
    longest_word = max(len(columns[-1]), *(len(word) for row in rows for word in row[-1].split()), 0)
    headings = [*map(_wrapped, columns[:-1]), columns[-1]]
    while True:
        widths = _widths(headings, rows, shown)
        least_first, least_last = min(widths[0], FIRST_COLUMN), min(widths[-1], longest_word)
        room = width - _total(widths) + widths[0] + widths[-1]  # for the first and the last column together
        if room >= least_first + least_last or len(shown) <= LEADING_COLUMNS + 1:
            last = max(least_last, min(widths[-1], room - least_first))
            return _Layout(headings, shown, max(1, min(widths[0], room - last)), last)
        del shown[-2]


def _wrapped(heading: str) -> str:
    """``workers needed`` and ``loader.num_workers`` in two lines."""
    return heading.replace(" ", "\n").replace(".", ".\n")


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], layout: _Layout) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for place, index in enumerate(layout.shown):
        if place == 0:
            table.add_column(columns[index], overflow="fold", width=layout.first)
        elif place == len(layout.shown) - 1:
            table.add_column(
                columns[index], justify="right", overflow="fold", width=layout.last, no_wrap=layout.last is None
            )
        else:
            table.add_column(columns[index], justify="right", overflow="fold", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(row[index]) for index in layout.shown))
    return table


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]], shown: Sequence[int]) -> list[int]:
    """The length of the longest line in each of these columns, in characters."""
    return [max(len(line) for row in (columns, *rows) for line in row[index].split("\n")) for index in shown]


def _total(widths: Sequence[int]) -> int:
    """The width of a table in characters: columns of these widths, a space on both sides of each, and the borders."""
    return sum(widths) + 3 * len(widths) + 1


class Bar:
    """The progress of a long task."""

    def update(self, done: int, note: str = "") -> None:
        raise NotImplementedError

    def due(self, done: int) -> bool:
        """Whether `update` would show anything now. If not, the caller need not make the note."""
        raise NotImplementedError

    def set_total(self, total: int | None) -> None:
        """Replaces the total after it has changed. None: unknown."""
        raise NotImplementedError


class RichBar(Bar):
    def __init__(self, progress: Progress, label: str, total: int | None) -> None:
        self._progress, self._label, self._total = progress, label, total
        self._done, self._note, self._next = 0, "", 0.0
        self._task = self._added()

    def _added(self) -> TaskID:
        return self._progress.add_task(self._label, total=self._total, completed=self._done, note=self._note)

    def due(self, done: int) -> bool:
        return time.perf_counter() >= self._next

    def update(self, done: int, note: str = "") -> None:
        self._done, self._note = done, note
        self._next = time.perf_counter() + REDRAW_S
        if self._total is not None and done > self._total:
            self.set_total(None)
        with lossy():
            self._progress.update(self._task, completed=done, note=note, refresh=True)

    def set_total(self, total: int | None) -> None:
        if total == self._total:
            return
        self._total = total
        with lossy():
            self._progress.remove_task(self._task)  # rich cannot make the total of a task unknown
            self._task = self._added()


class PlainBar(Bar):
    """About `PLAIN_LINES` lines, and always one when the total is reached; one line every `QUIET_S` if the total is unknown."""

    def __init__(self, terminal: Terminal, label: str, total: int | None) -> None:
        self._terminal, self._label = terminal, label
        self.set_total(total)
        self._shown, self._next = 0, time.perf_counter() + self._pause_s

    def due(self, done: int) -> bool:
        if done == self._total:  # the last line says that all is done, also if all took less than the pause
            return done > self._shown
        return done - self._shown >= self._every and time.perf_counter() >= self._next

    def update(self, done: int, note: str = "") -> None:
        if self._total is not None and done > self._total:
            self.set_total(None)
        self._shown, self._next = done, time.perf_counter() + self._pause_s
        of = f"/{self._total}" if self._total is not None else ""
        self._terminal.say(f"{self._label} {done}{of} {note}".rstrip())

    def set_total(self, total: int | None) -> None:
        self._total = total
        self._every = (total or 0) / PLAIN_LINES
        self._pause_s = REDRAW_S if total is not None else QUIET_S

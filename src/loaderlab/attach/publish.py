"""Publishes a result: the verdict on stderr, and its files. Does not import torch."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loaderlab.config import WrongUsage
from loaderlab.system.files import write_text

if TYPE_CHECKING:
    from loaderlab.attach.reading import Reading
    from loaderlab.lines.control import Profiled

MOST_LINES = 8  # ranks that print something: a job may have a thousand


@dataclass(frozen=True)
class Publisher:
    """Where a rank's results go.

    Attributes:
        name: of what is measured: ``train.py``.
        rank: of this process; rank 0 prints the whole verdict, and the next ones print one line each, up to `MOST_LINES`.
        json, html: files to write; every rank writes its own.
    """

    name: str
    rank: int = 0
    json: Path | None = None
    html: Path | None = None

    def checked(self) -> None:
        """Checks that the files can be written, without changing them.

        Raises:
            WrongUsage: one cannot.
        """
        for path in (self.json, self.html):
            if path is not None:
                _check_writable(self._of_rank(path))

    def publish(self, reading: Reading) -> None:
        """Prints the verdict and writes the files; one that cannot be written is reported."""
        from loaderlab.attach.outputs import as_html, as_json, one_line, text

        if self.rank == 0:
            say(text(reading, self.name))
        elif self.rank < MOST_LINES:
            say(one_line(reading, f"{self.name}, rank {self.rank}"))
        for path, make in ((self.json, as_json), (self.html, as_html)):
            if path is None:
                continue
            try:
                write_text(self._of_rank(path), make(reading, self.name))
            except OSError as error:
                say(f"loaderlab: {path} cannot be written: {error.strerror or error}")
        if self.html is not None and reading.slow is not None and reading.slow.lines is not None:
            self._write_tree(self._of_rank(self.html), reading.slow)

    def _write_tree(self, page: Path, slow: Profiled) -> None:
        """Writes the tree of a profile next to the page: ``page.slow_lines.html``."""
        from loaderlab.lines.tree import NAME, tree

        path = page.with_name(f"{page.stem}.{NAME}")
        try:
            write_text(path, tree(slow.recording, self.name))
        except OSError as error:
            say(f"loaderlab: {path} cannot be written: {error.strerror or error}")

    def _of_rank(self, path: Path) -> Path:
        """The file of this rank: each has its own, since all of them write."""
        return path if self.rank == 0 else path.with_name(f"{path.stem}.rank{self.rank}{path.suffix}")


def say(text: str) -> None:
    """Prints on stderr; the program's stdout stays as it is."""
    if sys.stderr is not None:  # otherwise print would use stdout
        with suppress(OSError, ValueError, AttributeError):
            print(text, file=sys.stderr)


def _check_writable(path: Path) -> None:
    new = not path.exists()
    try:
        with path.open("ab"):
            pass
        if new:
            path.unlink(missing_ok=True)  # another rank may have removed it
    except OSError as error:
        raise WrongUsage(f"{path}: cannot be written: {error.strerror or error}. Type another path") from None

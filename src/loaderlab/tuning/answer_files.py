"""The files of an answer, ``--json`` and ``--html``: checked before the first trial, written after the answer was printed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loaderlab.attach.publish import Publisher
from loaderlab.config import UserError
from loaderlab.system.extras import require
from loaderlab.system.files import write_text
from loaderlab.tuning.answer import Answer
from loaderlab.tuning.answer_json import as_json


@dataclass(frozen=True)
class AnswerFiles:
    """Where the answer is written.

    Attributes:
        title: of the page.
        json, html: the files; None: not written.
    """

    title: str
    json: Path | None = None
    html: Path | None = None

    def checked(self) -> None:
        """Checks that the files can be written, without changing them.

        Raises:
            WrongUsage: one cannot.
            UserError: the page needs a package that is missing.
        """
        if self.html is not None:
            require("tune --html", "matplotlib")
        Publisher(self.title, json=self.json, html=self.html).checked()

    def write(self, answer: Answer) -> None:
        """Writes all files that can be written.

        Raises:
            UserError: names those that cannot, in one line.
        """
        from loaderlab.tuning.tuned import html_of  # torch: after the arguments were checked

        texts: tuple[tuple[Path | None, Callable[[], str]], ...] = (
            (self.json, lambda: as_json(answer)),
            (self.html, lambda: html_of(answer, self.title)),
        )
        problems = []
        for path, text in texts:
            try:
                if path is not None:
                    write_text(path, text())
            except OSError as error:
                problems.append(f"{path}: cannot be written: {error.strerror or error}")
        if problems:
            raise UserError("; ".join(problems))

"""What the callbacks for training frameworks have in common: one measurement for each training, and its results."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from loaderlab.attach import hooks
from loaderlab.attach.publish import Publisher, say
from loaderlab.attach.rank_exchange import joined
from loaderlab.attach.reading import JudgedLoader, Reading
from loaderlab.attach.session import Session
from loaderlab.attach.torch_terms import in_terms as verdict_in_terms
from loaderlab.config import UserError
from loaderlab.diagnosis.evidence import Advice
from loaderlab.diagnosis.verdict import Verdict

Terms = Callable[[Advice], str]


class MeasuringCallback:
    """Measures a training between `_begin` and `_end`, which a framework's callback calls. An error in here never reaches
    the training.

    Attributes:
        reading: the result of the last training; None before its end, or if it could not be measured.
    """

    training = "the training"  # its name in messages

    def __init__(
        self,
        *,
        log: bool = False,
        max_steps: int | None = None,
        json: str | os.PathLike[str] | None = None,
        html: str | os.PathLike[str] | None = None,
    ) -> None:
        self._prepare()
        if max_steps is not None and max_steps < 1:
            raise UserError(f"{type(self).__name__}: max_steps={max_steps}: must be at least 1, or None")
        self.reading: Reading | None = None
        self._logs, self._max_steps = log, max_steps
        self._json, self._html = _absolute(json), _absolute(html)
        self._publisher(rank=0).checked()
        self._session: Session | None = None
        self._rank = 0
        self._unpublished = False
        hooks.install()  # loaders that are created from now on remember where

    @property
    def verdict(self) -> Verdict | None:
        """The verdict on the last training; None before its end."""
        return None if self.reading is None else self.reading.job.verdict

    @property
    def figures(self) -> dict[str, float]:
        """Metric name to value, as in `loaderlab.metrics`; empty before the end of a training."""
        return {} if self.reading is None else dict(self.reading.job.figures)

    # ---- for the framework's callback --------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Checks that the framework is installed.

        Raises:
            UserError: it is not.
        """

    def _begin(self, rank: int) -> None:
        """Starts a measurement. One that has not ended belongs to a training that was given up; it is dropped."""
        stale, self._session = self._session, None
        self.reading, self._unpublished, self._rank = None, False, rank
        with harmless(f"{self.training} is not measured"):
            if stale is not None:
                stale.stop()
            session = Session(self._max_steps)
            session.start()
            self._session = session

    def _end(self, terms: Terms) -> bool:
        """Ends the measurement, if one is running, and computes its result; returns whether there is one.

        Args:
            terms: how to follow a piece of advice in the framework; empty if it has no such setting.
        """
        session, self._session = self._session, None
        if session is None:
            return False
        with harmless(f"the result of {self.training} could not be computed"):
            session.stop()
            self.reading = in_terms(joined(session.reading()), terms)
            self._unpublished = True
        return self._unpublished

    def _publish(self, *, in_a_line: bool = False) -> None:
        """Prints the verdict and writes the files, once.

        Args:
            in_a_line: a progress bar may have left the terminal's cursor in the middle of a line.
        """
        reading, unpublished, self._unpublished = self.reading, self._unpublished, False
        if reading is None or not unpublished:
            return
        with harmless(f"the result of {self.training} could not be shown"):
            if in_a_line and sys.stderr.isatty():
                say("")
            self._publisher(self._rank).publish(reading)

    def _publisher(self, rank: int) -> Publisher:
        return Publisher(self.training, rank, self._json, self._html)


def in_terms(reading: Reading, terms: Terms) -> Reading:
    """A reading whose advice names a framework's settings; advice for which it has none is left out."""
    return replace(
        reading,
        job=_loader_in_terms(reading.job, terms),
        loaders=tuple(_loader_in_terms(entry, terms) for entry in reading.loaders),
    )


def _loader_in_terms(entry: JudgedLoader, terms: Terms) -> JudgedLoader:
    return replace(entry, verdict=verdict_in_terms(entry.verdict, terms))


@contextmanager
def harmless(what: str) -> Iterator[None]:
    """Prints an error instead of raising it: a measurement must not end a training.

    Args:
        what: does not work if there is one.
    """
    try:
        yield
    except UserError as error:
        say(f"loaderlab: {what}: {error}")
    except Exception:
        say(f"loaderlab: {what}:\n{traceback.format_exc().rstrip()}")


def _absolute(path: str | os.PathLike[str] | None) -> Path | None:
    """The training may change the working folder."""
    return None if path is None else Path(os.path.abspath(path))

"""The result of `loaderlab.tune`: the chosen settings, and the answer with its evidence."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from loaderlab.config import TrackingConfig, TuneConfig
from loaderlab.system.terminal import Terminal
from loaderlab.tuning.answer import Answer
from loaderlab.tuning.progress import Progress
from loaderlab.tuning.settings import override_of
from loaderlab.tuning.this_machine import this_machine
from loaderlab.tuning.tuner import tune as search
from loaderlab.tuning.typed import keywords, snippet
from loaderlab.tuning.words import Text, last_lines

if TYPE_CHECKING:
    from loaderlab.tuning.trial import Engine


@dataclass(frozen=True)
class Tuned:
    """The result. ``str`` of it is the answer in a few lines; a notebook shows it with its picture and tables.

    Attributes:
        chosen: the keyword arguments of the DataLoader: ``DataLoader(dataset, batch_size=64, **tuned.chosen)``; empty if no trial had a
            result.
        answer: everything that was measured.
        snippet: Python that builds the loader.
    """

    answer: Answer
    chosen: dict[str, Any] = field(default_factory=dict)
    snippet: str = ""

    def __str__(self) -> str:
        return "\n".join(lines_of(self.answer))

    def _repr_html_(self) -> str:
        """For notebooks."""
        return html_of(self.answer, "tune")


def tuned_of(answer: Answer) -> Tuned:
    """The result with an answer."""
    if answer.chosen is None:
        return Tuned(answer)
    return Tuned(answer, keywords(answer.chosen), lines_of(answer)[-1])


def answered(engine: Engine, config: TuneConfig, record: str | None, tracking: TrackingConfig | None = None) -> Tuned:
    """The result of the search with an engine; closes nothing. The progress is printed.

    Args:
        record: name of an MLflow run; None: no run.
        tracking: where that run is recorded; None: the default store.

    Raises:
        UserError, OSError: nothing can be tuned, or the answer cannot be recorded; it is printed before.
    """
    tracking, terminal = tracking or TrackingConfig(), Terminal()
    if record is not None:
        from loaderlab.tuning.user_record import prepared

        prepared(tracking)  # refuses before the search what would fail after it
    limits = partial(this_machine, max_makers=config.max_makers, memory_mib=config.memory_mib)
    answer = search(engine, limits, Progress(terminal), minutes=config.minutes, limit_pct=config.max_starved_pct)
    if record is not None:
        _record(record, answer, tracking, terminal)
    return tuned_of(answer)


def _record(name: str, answer: Answer, tracking: TrackingConfig, terminal: Terminal) -> None:
    """Records the answer. If that fails, prints it first: the caller gets no result then."""
    from loaderlab.tuning.user_record import recorded

    try:
        terminal.say(recorded(name, answer, tracking))
    except BaseException:  # Ctrl-C too
        for line in lines_of(answer):
            terminal.say(line)
        raise


def lines_of(answer: Answer) -> list[str]:
    """The last lines of the command."""
    return last_lines(answer, override_of, code_of(answer))


def code_of(answer: Answer) -> Text:
    """Python that builds a loader with the settings of a candidate."""
    size = answer.facts.batch_size // answer.facts.batches_per_step
    return partial(snippet, batch_size=size if size > 1 else None)  # 1 is also what is unknown


def html_of(answer: Answer, title: str) -> str:
    """The page about the answer."""
    from loaderlab.tuning.page import html  # matplotlib

    return html(answer, title, override_of, code_of(answer))

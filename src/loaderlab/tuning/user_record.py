"""The MLflow run of `loaderlab.tune(record=…)`: the chosen settings, the certificate, the page, and a child run for each trial."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loaderlab import metrics
from loaderlab.config import TrackingConfig, UserError, store_root
from loaderlab.system.causes import reason
from loaderlab.system.extras import require
from loaderlab.tuning.answer import Answer
from loaderlab.tuning.answer_record import record_answer
from loaderlab.tuning.candidate import Candidate
from loaderlab.tuning.picture import png_of
from loaderlab.tuning.settings import override_of
from loaderlab.tuning.trial import Measured
from loaderlab.tuning.typed import keywords

if TYPE_CHECKING:
    from loaderlab.tracking.store import Store

SOURCE = {"mlflow.source.name": "loaderlab.tune"}
FIGURES = {  # of a trial, by the metric
    metrics.RATE: "rate",
    metrics.STARVED_PCT: "starved_pct",
    metrics.STEP_MS: "step_ms",
    metrics.EPOCH_GAP_MS: "gap_ms",
    metrics.CEILING_RATE: "ceiling",
    metrics.CONTENDED_RATE: "contended",
    metrics.LOADER_RATE: "loader_alone",
    metrics.LOADER_CORES: "loader_cores",
    metrics.WORKER_MIB: "worker_mib",
    metrics.HOST_PEAK_MIB: "host_mib",
}


@dataclass(frozen=True)
class RecordedTrial:
    """A trial for the record. ``measured`` is None if it died; ``error`` says why. ``round``: of the confirmation, 0 in the search."""

    candidate: Candidate
    reason: str
    round: int
    measured: Measured | None
    error: str = ""


def prepared(tracking: TrackingConfig) -> None:
    """Checks that a run can be recorded.

    Raises:
        UserError: a package is missing, or the store cannot be opened.
    """
    require("recording the answer of the tuner", "mlflow", "matplotlib", "filelock")
    from loaderlab.tracking import open_store

    open_store(tracking, store_root())


def recorded(name: str, answer: Answer, tracking: TrackingConfig) -> str:
    """Records the answer as a run with this name; returns how to look at it.

    Raises:
        UserError: the store cannot be opened or written.
        OSError: the files of the answer cannot be written.
    """
    from loaderlab.tracking import open_store
    from loaderlab.tuning.tuned import html_of, lines_of

    lines = lines_of(answer)
    tags = SOURCE | {
        "arm": name,
        "tune": "parent",
        "tune.grade": answer.grade,
        "tune.chosen": lines[0].removeprefix("chosen: "),
        "tune.certificate": lines[1].removeprefix("certificate: "),
        "mlflow.note.content": "\n\n".join(lines),
    }
    store = open_store(tracking, store_root())
    with store.start(name, None, tags) as tracked:
        record_answer(tracked, answer, html_of(answer, name), png_of(answer))
        for trial in trials_of(answer):
            _record_trial(store, tracked.run_id, trial)
    return store.ui_text()


def record_or_refuse(name: str, answer: Answer, tracking: TrackingConfig) -> str:
    """As `recorded`.

    Raises:
        UserError: it cannot be recorded.
    """
    try:
        return recorded(name, answer, tracking)
    except OSError as error:  # of its files; the store raises UserError
        raise UserError(f"the answer cannot be recorded: {reason(error)}") from error


def trials_of(answer: Answer) -> Iterator[RecordedTrial]:
    """The trials of the search in order, then the rounds of the confirmation."""
    for tried in answer.tried:
        yield RecordedTrial(tried.candidate, tried.reason, 0, tried.measured, tried.error)
    for candidate, confirmed in answer.confirmed.items():
        for number, measured in enumerate(confirmed.runs, 1):
            yield RecordedTrial(candidate, "confirmation", number, measured)


def _record_trial(store: Store, parent_id: str, trial: RecordedTrial) -> None:
    """Records a trial as a run that has ended."""
    suffix = f", round {trial.round}" if trial.round else ""
    tags = SOURCE | {
        "arm": trial.candidate.title,
        "tune.candidate": override_of(trial.candidate),
        "tune.reason": trial.reason,
        "tune.round": str(trial.round),
    }
    if trial.measured is None:
        tags["error"] = trial.error
    run = store.start(f"{trial.candidate.title}{suffix}", parent_id, tags)
    run.params(
        (f"loader.{name}", value) for name, value in keywords(trial.candidate).items()
    )  # comparisons group runs by these
    for metric, name in FIGURES.items():
        if (value := getattr(trial.measured, name, None)) is not None:
            run.metric(metric, value, 0)
    run.end("FAILED" if trial.measured is None else "FINISHED")

"""The record of the tuner: a run in MLflow with its trials as children, the files of the answer, and the settings for ``+tuned=NAME``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from loaderlab.config import EMULATED, TunedTrainConfig, UserError
from loaderlab.runs.job import single
from loaderlab.system.files import atomic_file, write_text
from loaderlab.system.processes import sigterm_raises
from loaderlab.tracking.store import Store
from loaderlab.tracking.tracked_run import TrackedRun
from loaderlab.tuning.answer import CERTIFIED, NOT_FED, NOT_SEPARABLE, Answer, Predicted
from loaderlab.tuning.answer_record import record_answer
from loaderlab.tuning.suite import TrialRun
from loaderlab.tuning.suite_settings import file_of, overrides_of

SAVED = (CERTIFIED, NOT_SEPARABLE, NOT_FED)  # the grades whose settings replace those of an earlier answer
TUNED = "tuned"  # the folder in mlruns/ with the files of settings, which is a config group for Hydra


class SuiteRecord:
    """The run of the tuner, while it tunes.

    Attributes:
        received: the numbers of the signals that ended the search: SIGTERM; empty after Ctrl-C.
    """

    def __init__(self, config: TunedTrainConfig, store: Store, parent: TrackedRun, received: Sequence[int]) -> None:
        self._config, self._store, self._parent = config, store, parent
        self.received = received

    @property
    def for_trials(self) -> TrialRun:
        """How the trials are recorded."""
        return TrialRun(self._parent.run_id, self._store.close_dead_runs)

    @property
    def ui_text(self) -> str:
        """How to look at the record."""
        return self._store.ui_text()

    def answered(self, answer: Answer, html: str, chart: bytes) -> None:
        """Records the answer.

        Args:
            html: its page.
            chart: its picture as a PNG file; empty if there is none.
        """
        chosen, base = answer.chosen, self._config.loader
        tags = {"tune.grade": answer.grade, "tune.certificate": answer.certificate}
        if chosen is not None:
            tags["tune.chosen"] = " ".join(overrides_of(chosen, answer.facts.current, base))
        self._parent.tags(tags)
        self._parent.tags({"mlflow.note.content": "\n\n".join(f"**{name}**: {text}" for name, text in tags.items())})
        for entry in answer.tried:
            if entry.predicted is not None and entry.measured is not None and entry.measured.run_id:
                self._store.tag(entry.measured.run_id, {"tune.predicted": _predicted(entry.predicted)})
        record_answer(self._parent, answer, html, chart)


@contextlib.contextmanager
def recording(config: TunedTrainConfig, store: Store) -> Iterator[SuiteRecord]:
    """The run of the tuner. It ends as KILLED after Ctrl-C or SIGTERM, and as FAILED after another exception."""
    tags = {"tune": "parent"}
    if config.accelerator.is_emulated:
        tags["device.type"] = EMULATED
    run = config.run
    parent = store.start(f"tune {single(run, []).name}", None, tags)
    with sigterm_raises() as received, parent:
        parent.params(run.recorded())
        yield SuiteRecord(config, store, parent, received)


def save_settings(answer: Answer, config: TunedTrainConfig, root: Path) -> Path | None:
    """Writes the chosen settings for ``+tuned=NAME``; returns the file. None without chosen settings, or if they are not confirmed: an
    earlier file may have better ones.

    Args:
        root: the folder that contains ``mlruns``.

    Raises:
        UserError: the file cannot be written.
    """
    if answer.chosen is None or answer.interrupted or answer.grade not in SAVED:
        return None
    path = root / "mlruns" / TUNED / f"{config.tune.name}.yaml"
    note = f"{answer.grade}: {' '.join(answer.certificate.split())}"
    try:
        with atomic_file(path) as partial:
            write_text(partial, file_of(answer.chosen, answer.facts.current, config.loader, note))
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    return path


def _predicted(predicted: Predicted) -> str:
    return f"{predicted.rate:,.0f} samples/s, starved {predicted.starved_pct:.1f} %"

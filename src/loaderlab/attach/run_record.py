"""The MLflow run of a watched program: opened once, updated while the program runs, and completed at its end."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from loaderlab.attach.events import Events, Program, read
from loaderlab.attach.rank_results import load, over_ranks
from loaderlab.attach.reading import JudgedLoader, Reading, read_events
from loaderlab.attach.record import Record, log_results, write_record
from loaderlab.attach.sidecar import RANKS_FILE, Ending, Order
from loaderlab.config import TrackingConfig, UserError
from loaderlab.device.environment import describe_machine
from loaderlab.metrics import TABLE, WAIT_PCT
from loaderlab.system.causes import described
from loaderlab.tracking import open_store
from loaderlab.tracking.records import NOT_FINITE

if TYPE_CHECKING:
    from loaderlab.tracking.store import Store
    from loaderlab.tracking.tracked_run import TrackedRun

KILLED = "killed by a signal or by the system: recorded up to the last flush"
PROBLEM_TAG = "watch.problem"  # why the measurements of a run could not be judged


class RunRecording:
    """The run that an order asks for."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._store: Store | None = None
        self._tracked: TrackedRun | None = None
        self._replaceable: set[str] = set()  # tags of the last update
        self._figures: set[str] = set()  # metrics of all updates

    def begun(self) -> tuple[Store, TrackedRun]:
        """The store and the run, which are created by the first call that succeeds.

        Raises:
            UserError: the store cannot be opened or written.
        """
        if self._store is None:
            self._store = open_store(TrackingConfig(self._order.uri, self._order.experiment), Path.cwd())
        if self._tracked is None:
            self._tracked = self._store.start(self._order.name, None, self._tags())
        return self._store, self._tracked

    def update(self) -> None:
        """Records the metrics and the verdict so far.

        Raises:
            UserError: the store cannot be written.
            OSError, ValueError: the rows cannot be read.
        """
        _, tracked = self.begun()
        reading = self._reading()
        log_results(tracked, reading.job.verdict, reading.job.figures, len(reading.job.loop.steps))
        self._replace(tracked, reading)
        tracked.flush()

    def finish(self, ending: Ending | None) -> str:
        """Records everything and ends the run; returns where it is.

        Args:
            ending: None: the program did not report its end.

        Raises:
            UserError: the store cannot be written, or the measurements cannot be judged; the run has then ended too.
        """
        store, tracked = self.begun()
        status, error = outcome(ending)
        if error:
            tracked.tags({"error": error})
        problem = ""
        try:
            reading = self._job(self._reading())
        except Exception as failure:  # whatever is wrong with the rows, the run has to end
            traceback.print_exc()
            problem = f"the measurements cannot be judged: {described(failure)}"
            tracked.tags({PROBLEM_TAG: problem})
        else:
            write_record(tracked, self._record(reading))
            self._replace(tracked, reading)
        tracked.end(status)
        if problem:
            raise UserError(problem)
        return store.ui_text()

    def _replace(self, tracked: TrackedRun, reading: Reading) -> None:
        """Tags the device, and what the last update recorded and this one does not have: a store cannot remove a metric."""
        job = reading.job
        outdated = sorted(self._figures - set(job.figures))
        tags = device_tags(reading.device) | ({NOT_FINITE: ", ".join(outdated)} if outdated else {})
        tracked.tags(tags)
        tags |= job.verdict.tags()
        tracked.remove_tags(self._replaceable - set(tags))
        self._replaceable, self._figures = set(tags), self._figures | set(job.figures)

    def _tags(self) -> dict[str, str]:
        order = self._order
        return {
            "arm": order.name,
            "mlflow.source.name": "loaderlab watch",
            "watch.script": order.script,
            "watch.command": order.command,
        }

    def _reading(self) -> Reading:
        path = Path(self._order.rows_file)
        return read_events(read(path) if path.exists() else Events(Program()))

    def _job(self, reading: Reading) -> Reading:
        """The reading as that of the job, if its first rank has written the results of all ranks."""
        results = load(Path(self._order.rows_file).with_name(RANKS_FILE))
        return over_ranks(reading, results) if results else reading

    def _record(self, reading: Reading) -> Record:
        return Record(
            name=self._order.name,
            facts={"device": reading.device or "unknown", "script": self._order.script, **dict(_loader_facts(reading))},
            verdict=reading.job.verdict,
            figures=reading.job.figures,
            loop=reading.job.loop,
            environment=describe_machine(_device_name(reading.device), reading.program.threads),
            ranks=reading.ranks,
            slow=reading.slow,
        )


def outcome(ending: Ending | None) -> tuple[str, str]:
    """The status of a run, and the text of its tag ``error``, empty if there is none."""
    if ending is None:
        return "FAILED", KILLED
    if ending.interrupted:
        return "KILLED", ending.error or "interrupted by Ctrl-C"
    if ending.exit_code == 0:
        return "FINISHED", ""
    return "FAILED", ending.error or f"exit code {ending.exit_code}"


def device_tags(title: str) -> dict[str, str]:
    """The tags for a device, ``cuda:0 NVIDIA H200``; none if it is not known."""
    kind = title.partition(" ")[0].partition(":")[0]
    return {"device.type": kind, "device.name": _device_name(title)} if title else {}


def _device_name(title: str) -> str:
    return title.partition(" ")[2] or title


def _loader_facts(reading: Reading) -> Iterator[tuple[str, str]]:
    """Lines of the run's page about the loaders and the limits of the results."""
    if len(reading.loaders) == 1:
        yield "loader", reading.job.title
    else:
        for number, loader in enumerate(reading.loaders, 1):
            yield f"loader {number}", f"{loader.title}: {loader.verdict.sentence}"
    for number, loader in enumerate(reading.others, 1):
        yield f"evaluation {number}", f"{loader.title}: {_waited(loader)}"
    for number, note in enumerate([*reading.notes, *(reading.ranks.notes if reading.ranks is not None else ())], 1):
        yield f"note {number}", note


def _waited(loader: JudgedLoader) -> str:
    share = loader.figures.get(WAIT_PCT)
    return "not measured" if share is None else f"{TABLE[WAIT_PCT].label} {TABLE[WAIT_PCT].text(share)}"

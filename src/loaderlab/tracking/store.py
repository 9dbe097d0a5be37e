"""The MLflow store. It starts, resumes and reads runs, and marks runs whose process was killed."""

from __future__ import annotations

import gc
import os
import shlex
import socket
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from mlflow.entities import Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.tracking._tracking_service import utils

from loaderlab.config import AUTO, TrackingConfig, UserError, refuse
from loaderlab.system.causes import causes, reason, safe_text, with_cause
from loaderlab.system.processes import process_identity, undisturbed
from loaderlab.system.program import command
from loaderlab.system.user import user_name
from loaderlab.tracking import artifacts, sqlite_store, ui_view
from loaderlab.tracking.operations import END, Operation, is_refused, perform
from loaderlab.tracking.outbox import Outbox
from loaderlab.tracking.records import RunRecord, record_of
from loaderlab.tracking.request_limits import limited_requests
from loaderlab.tracking.server_runs import read_artifact, search_page
from loaderlab.tracking.spool import PLACE, Address, Spool
from loaderlab.tracking.tracked_run import TrackedRun, short_tags
from loaderlab.tracking.uri import store_uri, ui_command, without_password
from loaderlab.tracking.writers import Direct, Mailed, say

T = TypeVar("T")
PAGE = 1000  # runs per search request
SERVERS = ("postgresql", "mysql", "mssql")  # databases that MLflow can use, other than SQLite
DRIVERS = {"psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}  # module to package
PROCESS_KILLED = "its process was killed"  # the error of a run whose process is gone, for a reason that nobody recorded
HOST_TAG, PID_TAG, STARTED_TAG = "process.host", "process.pid", "process.started"
CONNECT_S, RETRY_S = 10.0, 1.0


class StoreError(UserError):
    """The MLflow store cannot be opened or written."""


class NothingRecorded(StoreError):
    """The store or the experiment does not exist yet."""


class Unreachable(StoreError):
    """The tracking server does not answer, or cannot reach its database, at the moment."""


class Store:
    """One experiment in one store.

    Args:
        config: the location of the store, and the experiment's name.
        root: the project's folder, for the default store.
        create: whether to create the store and the experiment if they are missing.
        wait_s: how long to wait for a tracking server that does not answer, when the store is opened and a run is started.

    Raises:
        StoreError: the store cannot be opened, created or written.
    """

    def __init__(self, config: TrackingConfig, root: Path, *, create: bool = True, wait_s: float = 0.0) -> None:
        self.uri, self._config, self._create = store_uri(config, root), config, create
        self._missing = artifacts.Missing()
        self._unsent = root / PLACE if self.uri.startswith("http") else None
        self._wait_s = wait_s
        if "://" not in self.uri:
            raise self._refused("must be sqlite:///… or the http://… of a tracking server")
        with self.guarded():
            try:
                file = sqlite_store.sqlite_file(self.uri)
            except ValueError as error:
                raise self._refused(reason(error)) from None
            self._file = file
            self.client, self.experiment_id = (
                self._patiently(self._open_server) if file is None else self._open_file(file)
            )
            self.close_dead_runs()

    def _open_server(self) -> tuple[MlflowClient, str]:
        if self.uri.startswith("http"):
            self._refuse_unreachable()
        return self._open(None)

    def _patiently(self, work: Callable[[], T]) -> T:
        """The result of work, which is repeated for ``wait_s`` while the tracking server does not answer."""
        deadline, is_announced = time.monotonic() + self._wait_s, False
        while True:
            try:
                with self.guarded():
                    return work()
            except Unreachable:
                if time.monotonic() >= deadline:
                    raise
            if not is_announced:
                is_announced = True
                say(f"waiting for {without_password(self.uri)}, for at most {self._wait_s:g} s")
            time.sleep(RETRY_S)

    def _open_file(self, file: Path) -> tuple[MlflowClient, str]:
        if not self._create and not file.exists():
            raise refuse(
                "tracking.uri",
                self.uri,
                "nothing has been recorded there yet",
                command("train"),
                is_example=False,
                error=NothingRecorded,
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        with sqlite_store.creating(file), sqlite_store.without_stray_folder(self.uri, file):
            sqlite_store.try_once(file, create=self._create)
            client, experiment_id = self._open(artifacts.artifacts_folder(file).as_uri())
            # without create, the store may be read-only
            with suppress(sqlite3.OperationalError) if not self._create else nullcontext():
                self._missing = artifacts.follow(file, experiment_id)
            _clear_folder_cache()
            return client, experiment_id

    def _refuse_unreachable(self) -> None:
        """Raises an error at once if no server listens; MLflow would retry for minutes."""
        parts = urlsplit(self.uri)
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            socket.create_connection((parts.hostname or "", port), timeout=CONNECT_S).close()
        except (OSError, ValueError) as error:
            kind = Unreachable if isinstance(error, OSError) else StoreError
            why = f"no tracking server answers there: {reason(error)}"
            raise self._refused(why, "tracking.uri=auto", kind) from None

    def _refused(
        self, why: str, override: str = "tracking.uri=sqlite:////tmp/mlflow.db", kind: type[UserError] = StoreError
    ) -> UserError:
        return refuse("tracking.uri", without_password(self.uri), without_password(why), override, error=kind)

    def _open(self, location: str | None) -> tuple[MlflowClient, str]:
        if urlsplit(self.uri).scheme.partition("+")[0] in SERVERS:
            # one attempt, because MLflow would retry for two minutes
            from sqlalchemy import create_engine  # its import sets up a logger

            engine = create_engine(self.uri)
            engine.connect().close()
            engine.dispose()
        client = MlflowClient(self.uri)
        name = self._config.experiment
        experiment = client.get_experiment_by_name(name)
        if experiment is None and not self._create:
            known = ", ".join(entry.name for entry in client.search_experiments() if entry.name != "Default") or "none"
            raise NothingRecorded(
                f"tracking.experiment={name}: there is no such experiment in {without_password(self.uri)}. It has: {known}"
            )
        if experiment is None:
            # without this tag, the UI opens the experiment as one with prompts and traces
            tags = {"mlflow.experimentKind": "custom_model_development", **ui_view.tags()}
            return client, client.create_experiment(name, artifact_location=location, tags=tags)
        if experiment.lifecycle_stage != "active":
            raise refuse(
                "tracking.experiment",
                name,
                "was deleted in this store",
                f"tracking.experiment=other, or MLFLOW_TRACKING_URI={without_password(self.uri)} mlflow experiments restore "
                f"--experiment-id {experiment.experiment_id}",
                is_example=False,
                error=StoreError,
            )
        for tag, view in ui_view.tags().items():
            if self._create and experiment.tags.get(tag) != view:
                client.set_experiment_tag(experiment.experiment_id, tag, view)
        return client, experiment.experiment_id

    def close_dead_runs(self, cause: str = "") -> None:
        """Marks RUNNING runs whose process no longer exists as KILLED, with the cause if it is known.

        Not a run whose end waits in the spool. If the server does not answer, the next start does it.
        """
        query = f"attributes.status = 'RUNNING' and tags.`{HOST_TAG}` = '{_host()}'"
        with suppress(Unreachable), self.guarded():
            for run in self.client.search_runs([self.experiment_id], query):
                if not _alive(run.data.tags) and not self._ends_in_spool(run.info.run_id):
                    self.client.set_tag(run.info.run_id, "error", cause or PROCESS_KILLED)
                    self.client.set_terminated(run.info.run_id, "KILLED")

    @property
    def is_file(self) -> bool:
        """Whether the store is an SQLite file."""
        return self._file is not None

    def _ends_in_spool(self, run_id: str) -> bool:
        return self._unsent is not None and Spool(self._unsent, run_id).has(END)

    def clear_error(self, run_id: str, error: str) -> None:
        """Removes a run's tag ``error`` if it has this text."""
        with self.guarded():
            if self.client.get_run(run_id).data.tags.get("error") == error:
                self.client.delete_tag(run_id, "error")

    @property
    def typed(self) -> str:
        """The overrides to append to a command to select this store and experiment; empty for the default ones."""
        uri, experiment = without_password(self._config.uri), self._config.experiment
        words = [f"tracking.uri={uri}"] if uri != AUTO else []
        words += [f"tracking.experiment={experiment}"] if experiment != TrackingConfig.experiment else []
        return "".join(f" {shlex.quote(word)}" for word in words)

    def ui_text(self) -> str:
        """The command that starts the UI, the URLs of its list and charts of runs, and a note if artifacts of earlier runs are
        missing."""
        server = self.uri.rstrip("/") if self.uri.startswith("http") else "http://127.0.0.1:5000"
        lines = [f"recorded: {ui_command(self.uri)}", *ui_view.addresses(server, self.experiment_id)]
        return "\n".join([*lines, str(self._missing)] if self._missing.num_runs else lines)

    def start(self, name: str, parent_id: str | None, tags: dict[str, str]) -> TrackedRun:
        """A new run, which is RUNNING until `TrackedRun.end`."""
        own = {HOST_TAG: _host(), PID_TAG: str(os.getpid()), STARTED_TAG: str(process_identity(os.getpid()))}
        source = {"mlflow.source.name": "experiments.train", "mlflow.source.type": "LOCAL"}
        tags = source | {"mlflow.user": user_name()} | own | tags
        if parent_id:
            tags["mlflow.parentRunId"] = parent_id
        create = partial(self.client.create_run, self.experiment_id, tags=short_tags(tags), run_name=name)
        return self._tracked(self._patiently(create).info.run_id, name)

    def resume(self, run_id: str) -> TrackedRun:
        """An earlier run, set to RUNNING again in this process."""
        own = {HOST_TAG: _host(), PID_TAG: str(os.getpid()), STARTED_TAG: str(process_identity(os.getpid()))}
        with self.guarded():
            if self._file is not None:
                artifacts.adopt(self._file, run_id)
                _clear_folder_cache()
            self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in own.items()])
            self.client.update_run(run_id, status="RUNNING")
            run = self.client.get_run(run_id)
            if "error" in run.data.tags:
                self.client.delete_tag(run_id, "error")
        return self._tracked(run_id, run.info.run_name or run_id)

    def _tracked(self, run_id: str, name: str) -> TrackedRun:
        """The run with its writer: directly into a database, or through the outbox of a tracking server."""
        if self._unsent is None:
            return TrackedRun(Direct(self, run_id), run_id)
        address = Address(self.uri, self._config.experiment, name)
        outbox = Outbox(Spool(self._unsent, run_id), address, partial(self.send, run_id), say)
        return TrackedRun(Mailed(self, outbox), run_id)

    def send(self, run_id: str, operation: Operation) -> None:
        """Does one change of a run.

        Raises:
            Exception: whatever MLflow, its database or the network raises.
        """
        with limited_requests():
            perform(self.client, run_id, operation)

    def tag(self, run_id: str, tags: dict[str, str]) -> None:
        """Adds tags to a run that has ended, or that another process records."""
        self._tracked(run_id, run_id).tags(tags)

    def correct(
        self, run_id: str, status: str, tags: dict[str, str], figures: Mapping[str, float], texts: Mapping[str, str]
    ) -> None:
        """Gives an earlier run another status, and adds tags, metrics and texts, which become artifacts, by file name."""
        run = self._tracked(run_id, run_id)
        self.add_texts(run_id, texts)
        run.tags(tags)
        for name, value in figures.items():
            run.metric(name, value, 0)
        run.end(status)

    def add_texts(self, run_id: str, texts: Mapping[str, str]) -> None:
        """Adds texts to a run that another process may record. They become artifacts, by file name."""
        with self.guarded():
            for name, text in texts.items():
                self.client.log_text(run_id, text, name)

    def runs(self, query: str = "") -> list[RunRecord]:
        """Every run of the experiment that matches an MLflow filter, ordered by start time.

        Raises:
            UserError: MLflow does not understand the filter.
        """
        runs: list[RunRecord] = []
        token: str | None = None
        with self.guarded(), _paused_collector():
            while True:
                try:
                    page, token = self._search_page(query, token)
                except MlflowException as error:
                    if error.error_code != "INVALID_PARAMETER_VALUE":
                        raise
                    raise refuse(
                        "filter",
                        query,
                        f"MLflow does not understand it: {reason(error)}",
                        """'filter="metrics.`rate/samples_per_s` > 1000"'""",
                    ) from None
                runs += page
                if not token:
                    return runs

    def _search_page(self, query: str, token: str | None) -> tuple[list[RunRecord], str | None]:
        if self._unsent is not None:
            return search_page(self.uri, self.experiment_id, query, PAGE, token)
        page = self.client.search_runs(
            [self.experiment_id],
            query,
            max_results=PAGE,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        return [_recorded(run) for run in page], page.token

    def run(self, run_id: str) -> RunRecord | None:
        """The run with this id, from any experiment; None if there is no such run."""
        with self.guarded():
            try:
                return _recorded(self.client.get_run(run_id))
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise

    def sweeps(self) -> list[RunRecord]:
        """The parent runs of the experiment's sweeps; the newest comes last."""
        return self.runs("tags.sweep = 'parent'")

    def newest_sweep(self) -> RunRecord | None:
        return next(reversed(self.sweeps()), None)

    def read(self, run_id: str, path: str) -> str | None:
        """The text of an artifact; None if the run has no artifact with this path."""
        if self._unsent is not None:
            with suppress(MlflowException), limited_requests():
                content = read_artifact(self.uri, run_id, path)
                if content is not None:
                    return content.decode("utf-8", errors="replace")
        with limited_requests(), tempfile.TemporaryDirectory(prefix="loaderlab-") as folder:
            try:
                return Path(self.client.download_artifacts(run_id, path, folder)).read_text(
                    encoding="utf-8", errors="replace"
                )
            except (MlflowException, OSError):
                return None

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Turns errors of MLflow, SQLAlchemy and the disk into one message. A first Ctrl-C takes effect after the write."""
        try:
            with undisturbed(), limited_requests():
                yield
        except UserError:
            raise
        except Exception as error:
            if isinstance(error, ImportError):  # the database's driver is missing
                why = f"needs the Python package {error.name}, which is not installed"
                raise self._refused(why, f"pip install {DRIVERS.get(str(error.name), error.name)}") from None
            known = (
                isinstance(error, (MlflowException, OSError, sqlite3.Error)) or "sqlalchemy" in type(error).__module__
            )
            if not known:
                raise
            upgrade = ""
            if "out-of-date" in safe_text(error) or "schema" in safe_text(error):
                upgrade = (
                    f" Another MLflow version wrote the store. Type: mlflow db upgrade {without_password(self.uri)}"
                )
            line = with_cause(error, reason(_driver_error(error))).removesuffix(".")
            if isinstance(error, MlflowException) and self._unsent is not None:
                kind = StoreError if is_refused(error) else Unreachable
                raise self._refused(f"the tracking server reports: {line}", "tracking.uri=auto", kind) from error
            raise self._refused(
                f"the MLflow store cannot be opened or written: {line}.{upgrade} The store needs a writable disk with space left"
            ) from error


def _driver_error(error: Exception) -> BaseException:
    """The database driver's error inside an error of MLflow or SQLAlchemy, which add the statement and a link to its text."""
    inner = (getattr(each, "orig", None) for each in (error, *causes(error)))
    return next((each for each in inner if isinstance(each, BaseException)), error)


def _clear_folder_cache() -> None:
    """Clears MLflow's cache of the folder of each run id, because a copy of a store has the same run ids."""
    utils._artifact_repos_cache.clear()


@contextmanager
def _paused_collector() -> Iterator[None]:
    """Pauses Python's cycle collector, which would check the half a million objects of a thousand runs again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _recorded(run: Run) -> RunRecord:
    return record_of(
        run_id=run.info.run_id,
        name=run.info.run_name,
        status=run.info.status,
        started_ms=run.info.start_time,
        settings=run.data.params,
        figures=run.data.metrics,
        tags=run.data.tags,
    )


def _host() -> str:
    return socket.gethostname().replace("'", "")


def _alive(tags: dict[str, str]) -> bool:
    """Whether the process in these tags still runs: its pid may belong to another process now."""
    pid = tags.get(PID_TAG, "")
    return pid.isdigit() and process_identity(int(pid)) == tags.get(STARTED_TAG)

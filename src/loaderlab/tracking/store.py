"""The MLflow store: starts, resumes and reads runs, and marks runs whose process was killed."""

from __future__ import annotations

import gc
import os
import shlex
import socket
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
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
from loaderlab.tracking.records import RunRecord, not_finite_in
from loaderlab.tracking.tracked_run import TrackedRun, short_tags
from loaderlab.tracking.uri import store_uri, ui_command

PAGE = 1000  # runs of one search
SERVERS = ("postgresql", "mysql", "mssql")  # databases that MLflow can use, other than SQLite
DRIVERS = {"psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}  # module to package
HOST_TAG, PID_TAG, STARTED_TAG = "process.host", "process.pid", "process.started"


class StoreError(UserError):
    """The MLflow store cannot be opened or written."""


class NothingRecorded(StoreError):
    """There is no such store, or no such experiment in it, yet."""


class Store:
    """One experiment in one store.

    Args:
        config: where it is, and the experiment's name.
        root: the project's folder, for the default store.
        create: whether to make the store and the experiment where they are missing.

    Raises:
        StoreError: it cannot be opened, created or written.
    """

    def __init__(self, config: TrackingConfig, root: Path, *, create: bool = True) -> None:
        self.uri, self._config, self._create = store_uri(config, root), config, create
        self._missing = artifacts.Missing()
        if "://" not in self.uri:
            raise self._refused("must be sqlite:///… or the http://… of a tracking server")
        with self.guarded():
            if self.uri.startswith("http"):
                self._refuse_unreachable()
            try:
                file = sqlite_store.sqlite_file(self.uri)
            except ValueError as error:
                raise self._refused(reason(error)) from None
            self._file = file
            self.client, self.experiment_id = self._open(None) if file is None else self._open_file(file)
            self.close_dead_runs()

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
            with suppress(sqlite3.OperationalError) if not self._create else nullcontext():  # a store that is only read
                self._missing = artifacts.follow(file, experiment_id)
            _forget_folders()
            return client, experiment_id

    def _refuse_unreachable(self) -> None:
        """Where nobody listens, MLflow itself would try again for minutes before it says so."""
        found = urlsplit(self.uri)
        try:
            port = found.port or (443 if found.scheme == "https" else 80)
            socket.create_connection((found.hostname or "", port), timeout=10).close()
        except (OSError, ValueError) as error:
            raise self._refused(f"no tracking server answers there: {reason(error)}", "tracking.uri=auto") from None

    def _refused(self, why: str, override: str = "tracking.uri=sqlite:////tmp/mlflow.db") -> UserError:
        return refuse("tracking.uri", self.uri, why, override, error=StoreError)

    def _open(self, location: str | None) -> tuple[MlflowClient, str]:
        if urlsplit(self.uri).scheme.partition("+")[0] in SERVERS:  # once: MLflow would try for two minutes
            from sqlalchemy import create_engine  # its import sets up a logger

            engine = create_engine(self.uri)
            engine.connect().close()
            engine.dispose()
        client = MlflowClient(self.uri)
        name = self._config.experiment
        found = client.get_experiment_by_name(name)
        if found is None and not self._create:
            known = ", ".join(entry.name for entry in client.search_experiments() if entry.name != "Default") or "none"
            raise NothingRecorded(
                f"tracking.experiment={name}: there is no such experiment in {self.uri}. It has: {known}"
            )
        if found is None:
            # without the tag the UI opens the experiment as one of prompts and traces
            tags = {"mlflow.experimentKind": "custom_model_development", **ui_view.tags()}
            return client, client.create_experiment(name, artifact_location=location, tags=tags)
        if found.lifecycle_stage != "active":
            raise refuse(
                "tracking.experiment",
                name,
                "was deleted in this store",
                f"tracking.experiment=other, or MLFLOW_TRACKING_URI={self.uri} mlflow experiments restore --experiment-id "
                f"{found.experiment_id}",
                is_example=False,
                error=StoreError,
            )
        for tag, view in ui_view.tags().items():
            if self._create and found.tags.get(tag) != view:
                client.set_experiment_tag(found.experiment_id, tag, view)
        return client, found.experiment_id

    def close_dead_runs(self, cause: str = "") -> None:
        """A run that says RUNNING and whose process is gone was killed: say so, with the cause where it is known."""
        query = f"attributes.status = 'RUNNING' and tags.`{HOST_TAG}` = '{_host()}'"
        with self.guarded():
            for run in self.client.search_runs([self.experiment_id], query):
                if not _alive(run.data.tags):
                    self.client.set_tag(run.info.run_id, "error", cause or "its process was killed")
                    self.client.set_terminated(run.info.run_id, "KILLED")

    @property
    def typed(self) -> str:
        """What a command needs behind it to mean this store and experiment; empty where they are the default ones."""
        uri, experiment = self._config.uri, self._config.experiment
        words = [f"tracking.uri={uri}"] if uri != AUTO else []
        words += [f"tracking.experiment={experiment}"] if experiment != TrackingConfig.experiment else []
        return "".join(f" {shlex.quote(word)}" for word in words)

    def how_to_look(self) -> str:
        """The command that starts the UI, where it shows the runs as a list and as charts, and a note where artifacts of earlier
        runs are missing."""
        server = self.uri.rstrip("/") if self.uri.startswith("http") else "http://127.0.0.1:5000"
        lines = [f"recorded: {ui_command(self.uri)}", *ui_view.addresses(server, self.experiment_id)]
        return "\n".join([*lines, str(self._missing)] if self._missing.num_runs else lines)

    def start(self, name: str, parent_id: str | None, tags: dict[str, str]) -> TrackedRun:
        """A new run, RUNNING until `TrackedRun.end`."""
        own = {HOST_TAG: _host(), PID_TAG: str(os.getpid()), STARTED_TAG: str(process_identity(os.getpid()))}
        source = {"mlflow.source.name": "experiments.train", "mlflow.source.type": "LOCAL"}
        tags = source | {"mlflow.user": user_name()} | own | tags
        if parent_id:
            tags["mlflow.parentRunId"] = parent_id
        with self.guarded():
            run = self.client.create_run(self.experiment_id, tags=short_tags(tags), run_name=name)
        return TrackedRun(self, run.info.run_id)

    def go_on(self, run_id: str) -> TrackedRun:
        """A run of before, RUNNING again in this process."""
        own = {HOST_TAG: _host(), PID_TAG: str(os.getpid()), STARTED_TAG: str(process_identity(os.getpid()))}
        with self.guarded():
            if self._file is not None:
                artifacts.adopt(self._file, run_id)
                _forget_folders()
            self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in own.items()])
            self.client.update_run(run_id, status="RUNNING")
            if "error" in self.client.get_run(run_id).data.tags:
                self.client.delete_tag(run_id, "error")
        return TrackedRun(self, run_id)

    def runs(self, query: str = "") -> list[RunRecord]:
        """Every run of the experiment that an MLflow filter takes, in order of their start.

        Raises:
            UserError: MLflow does not understand the filter.
        """
        found: list[Run] = []
        token = None
        with self.guarded(), _collector_paused():
            while True:
                try:
                    page = self.client.search_runs(
                        [self.experiment_id],
                        query,
                        max_results=PAGE,
                        order_by=["attributes.start_time ASC"],
                        page_token=token,
                    )
                except MlflowException as error:
                    if error.error_code != "INVALID_PARAMETER_VALUE":
                        raise
                    raise refuse(
                        "filter",
                        query,
                        f"MLflow does not understand it: {reason(error)}",
                        """'filter="metrics.`rate/samples_per_s` > 1000"'""",
                    ) from None
                found += page
                token = page.token
                if not token:
                    return [_recorded(run) for run in found]

    def run(self, run_id: str) -> RunRecord | None:
        """One run, of whatever experiment; None where there is none of this id."""
        with self.guarded():
            try:
                return _recorded(self.client.get_run(run_id))
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise

    def sweeps(self) -> list[RunRecord]:
        """The parent runs of the experiment, the newest last."""
        return self.runs("tags.sweep = 'parent'")

    def newest_sweep(self) -> RunRecord | None:
        return next(reversed(self.sweeps()), None)

    def read(self, run_id: str, path: str) -> str | None:
        """The text of an artifact; None where the run has none of this name."""
        with tempfile.TemporaryDirectory(prefix="loaderlab-") as folder:
            try:
                return Path(self.client.download_artifacts(run_id, path, folder)).read_text(
                    encoding="utf-8", errors="replace"
                )
            except (MlflowException, OSError):
                return None

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Turns what MLflow, SQLAlchemy and the disk raise into one message; a Ctrl-C is put off until all is written."""
        try:
            with undisturbed():
                yield
        except UserError:
            raise
        except Exception as error:
            if isinstance(error, ImportError):  # of the database's driver
                why = f"needs the Python package {error.name}, which is not installed"
                raise self._refused(why, f"pip install {DRIVERS.get(str(error.name), error.name)}") from None
            known = (
                isinstance(error, (MlflowException, OSError, sqlite3.Error)) or "sqlalchemy" in type(error).__module__
            )
            if not known:
                raise
            upgrade = ""
            if "out-of-date" in safe_text(error) or "schema" in safe_text(error):
                upgrade = f" The store is of another MLflow version: mlflow db upgrade {self.uri}"
            line = with_cause(error, reason(_of_the_driver(error))).removesuffix(".")
            raise self._refused(
                f"the MLflow store cannot be opened or written: {line}.{upgrade} It needs a writable disk with space left"
            ) from error


def _of_the_driver(error: Exception) -> BaseException:
    """The database driver's error within an error of MLflow or SQLAlchemy, whose texts add the statement and a link."""
    inner = (getattr(each, "orig", None) for each in (error, *causes(error)))
    return next((each for each in inner if isinstance(each, BaseException)), error)


def _forget_folders() -> None:
    """MLflow keeps each run's folder by the run's id for the whole process; a copy of a store has the same ids."""
    utils._artifact_repos_cache.clear()


@contextmanager
def _collector_paused() -> Iterator[None]:
    """A thousand runs are half a million live objects, which Python's cycle collector would walk again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _recorded(run: Run) -> RunRecord:
    lost = not_finite_in(run.data.tags)  # whose last value in the store is one of before
    return RunRecord(
        run_id=run.info.run_id,
        name=run.info.run_name or run.info.run_id,
        status=run.info.status,
        parent_id=run.data.tags.get("mlflow.parentRunId"),
        started_ms=run.info.start_time,
        settings=run.data.params,
        figures={name: value for name, value in run.data.metrics.items() if name not in lost},
        tags=run.data.tags,
    )


def _host() -> str:
    return socket.gethostname().replace("'", "")


def _alive(tags: dict[str, str]) -> bool:
    """Whether the process that these tags name is the one that now has its number."""
    pid = tags.get(PID_TAG, "")
    return pid.isdigit() and process_identity(int(pid)) == tags.get(STARTED_TAG)

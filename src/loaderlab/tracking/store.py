"""The MLflow store. It starts, resumes and reads runs, and marks runs whose process was killed."""

from __future__ import annotations

import gc
import os
import shlex
import socket
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
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

PAGE = 1000  # runs per search request
SERVERS = ("postgresql", "mysql", "mssql")  # databases that MLflow can use, other than SQLite
DRIVERS = {"psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}  # module to package
PROCESS_KILLED = "its process was killed"  # the error of a run whose process is gone, for a reason that nobody recorded
HOST_TAG, PID_TAG, STARTED_TAG = "process.host", "process.pid", "process.started"


class StoreError(UserError):
    """The MLflow store cannot be opened or written."""


class NothingRecorded(StoreError):
    """The store or the experiment does not exist yet."""


class Store:
    """One experiment in one store.

    Args:
        config: the location of the store, and the experiment's name.
        root: the project's folder, for the default store.
        create: whether to create the store and the experiment if they are missing.

    Raises:
        StoreError: the store cannot be opened, created or written.
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
            socket.create_connection((parts.hostname or "", port), timeout=10).close()
        except (OSError, ValueError) as error:
            raise self._refused(f"no tracking server answers there: {reason(error)}", "tracking.uri=auto") from None

    def _refused(self, why: str, override: str = "tracking.uri=sqlite:////tmp/mlflow.db") -> UserError:
        return refuse("tracking.uri", self.uri, why, override, error=StoreError)

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
                f"tracking.experiment={name}: there is no such experiment in {self.uri}. It has: {known}"
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
                f"tracking.experiment=other, or MLFLOW_TRACKING_URI={self.uri} mlflow experiments restore --experiment-id "
                f"{experiment.experiment_id}",
                is_example=False,
                error=StoreError,
            )
        for tag, view in ui_view.tags().items():
            if self._create and experiment.tags.get(tag) != view:
                client.set_experiment_tag(experiment.experiment_id, tag, view)
        return client, experiment.experiment_id

    def close_dead_runs(self, cause: str = "") -> None:
        """Marks RUNNING runs whose process no longer exists as KILLED, with the cause if it is known."""
        query = f"attributes.status = 'RUNNING' and tags.`{HOST_TAG}` = '{_host()}'"
        with self.guarded():
            for run in self.client.search_runs([self.experiment_id], query):
                if not _alive(run.data.tags):
                    self.correct(run.info.run_id, "KILLED", {"error": cause or PROCESS_KILLED}, {}, {})

    @property
    def is_file(self) -> bool:
        """Whether the store is an SQLite file."""
        return self._file is not None

    @property
    def typed(self) -> str:
        """The overrides to append to a command to select this store and experiment; empty for the default ones."""
        uri, experiment = self._config.uri, self._config.experiment
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
        with self.guarded():
            run = self.client.create_run(self.experiment_id, tags=short_tags(tags), run_name=name)
        return TrackedRun(self, run.info.run_id)

    def resume(self, run_id: str) -> TrackedRun:
        """An earlier run, set to RUNNING again in this process."""
        own = {HOST_TAG: _host(), PID_TAG: str(os.getpid()), STARTED_TAG: str(process_identity(os.getpid()))}
        with self.guarded():
            if self._file is not None:
                artifacts.adopt(self._file, run_id)
                _clear_folder_cache()
            self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in own.items()])
            self.client.update_run(run_id, status="RUNNING")
            if "error" in self.client.get_run(run_id).data.tags:
                self.client.delete_tag(run_id, "error")
        return TrackedRun(self, run_id)

    def correct(
        self, run_id: str, status: str, tags: dict[str, str], figures: Mapping[str, float], texts: Mapping[str, str]
    ) -> None:
        """Gives an earlier run another status, and adds tags, metrics and texts, which become artifacts, by file name."""
        run = TrackedRun(self, run_id)
        with self.guarded():
            for name, text in texts.items():
                self.client.log_text(run_id, text, name)
        run.tags(tags)
        for name, value in figures.items():
            run.metric(name, value, 0)
        run.end(status)

    def runs(self, query: str = "") -> list[RunRecord]:
        """Every run of the experiment that matches an MLflow filter, ordered by start time.

        Raises:
            UserError: MLflow does not understand the filter.
        """
        runs: list[Run] = []
        token = None
        with self.guarded(), _paused_collector():
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
                runs += page
                token = page.token
                if not token:
                    return [_recorded(run) for run in runs]

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
        with tempfile.TemporaryDirectory(prefix="loaderlab-") as folder:
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
            with undisturbed():
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
                upgrade = f" Another MLflow version wrote the store. Type: mlflow db upgrade {self.uri}"
            line = with_cause(error, reason(_driver_error(error))).removesuffix(".")
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
    not_finite = not_finite_in(run.data.tags)  # the store has only an earlier value of these
    return RunRecord(
        run_id=run.info.run_id,
        name=run.info.run_name or run.info.run_id,
        status=run.info.status,
        parent_id=run.data.tags.get("mlflow.parentRunId"),
        started_ms=run.info.start_time,
        settings=run.data.params,
        figures={name: value for name, value in run.data.metrics.items() if name not in not_finite},
        tags=run.data.tags,
    )


def _host() -> str:
    return socket.gethostname().replace("'", "")


def _alive(tags: dict[str, str]) -> bool:
    """Whether the process in these tags still runs: its pid may belong to another process now."""
    pid = tags.get(PID_TAG, "")
    return pid.isdigit() and process_identity(int(pid)) == tags.get(STARTED_TAG)

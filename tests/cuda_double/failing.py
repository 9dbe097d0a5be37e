"""A short run whose device fails at one call, and what must be recorded of it."""

from __future__ import annotations

import csv
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import mlflow.artifacts
import psutil
import pytest
import torch
from mlflow.tracking import MlflowClient
from rich.console import Console

from loaderlab.config import TrainConfig
from loaderlab.device import clock
from loaderlab.device.timeline import RealClock, VirtualClock
from loaderlab.meter import phases
from loaderlab.runs import judge, measured_loop, run
from loaderlab.runs.job import single
from loaderlab.runs.probe import probe
from loaderlab.system.terminal import Terminal
from tests.cuda_double.dali import dali_on
from tests.cuda_double.double import Double, Failure
from tests.cuda_double.patches import installed

SHORT_RING = 4  # steps; so that device times arrive during a short run
TIMES_PER_STEP = 6  # that the event ring reads
COST_STEPS = 2  # of the measurement of the meter's own cost
CALL_NS, KERNEL_NS = 100_000, 10_000
REAL_KERNEL_NS = 200_000  # so that the device is behind the host
FIRST = "the planted failure"
CUDA_ERROR, OUT_OF_MEMORY = "CUDA error", "out of memory"
ALLOCATIONS = ("allocate", "pin")
FILES = {"config.yaml", "overrides.yaml", "environment.json", "log.txt"}
SETTINGS = [
    "device=cuda",
    "data=vectors",
    "data.num_samples=40",
    "model=feedforward",
    "model.hidden=[4]",
    "optimizer=sgd",
    "batch_size=8",
    "epochs=2",
    "torch_threads=1",
    "loader=native",
    "loader.num_workers=0",
    "measure=default",
    "measure.probe_s=0.016",
    "measure.warmup_steps=1",
    "measure.device_samples=false",
    "checkpoint.every_minutes=0",
]


class _Broken:
    """The errors of a broken device: the first one says what happened, the later ones only that it is broken."""

    def __init__(self) -> None:
        self._num_raised = 0

    def __call__(self) -> Exception:
        self._num_raised += 1
        text = FIRST if self._num_raised == 1 else "a later call of the broken device"
        return torch.AcceleratorError(f"CUDA error: {text}\nCompile with `TORCH_USE_CUDA_DSA` to enable assertions.\n")


def _full() -> Exception:
    return torch.OutOfMemoryError(f"CUDA out of memory. {FIRST}. GPU 0 has a total capacity of 1 GiB. More.")


def failure(kind: str, at: int) -> Failure:
    """A failure at a call: of everything from then on, or of one allocation."""
    return Failure(at, _Broken(), sticky=True) if kind == CUDA_ERROR else Failure(at, _full, sticky=False)


@dataclass
class Attempt:
    """A run on the double.

    Attributes:
        calls: of the device, in order.
        num_trained: calls until the probes began; None if they did not.
        num_steps: the number of steps that the loop has finished.
        broken_at: calls before the device failed for good; None if it did not.
        said: the lines on the terminal.
        error: that the run raised, in one line.
        left: threads and processes that it left behind.
    """

    calls: list[str] = field(default_factory=list)
    num_trained: int | None = None
    num_steps: int = 0
    broken_at: int | None = None
    said: list[str] = field(default_factory=list)
    error: str = ""
    left: list[str] = field(default_factory=list)

    @property
    def num_timed(self) -> int:
        """The steps whose device times the host had read when the training ended, or the device failed."""
        ends = [at for at in (self.num_trained, self.broken_at) if at is not None]
        return self.calls[: min(ends, default=None)].count("elapsed_time") // TIMES_PER_STEP


@dataclass(frozen=True)
class Recorded:
    """What the store has of a run."""

    status: str
    tags: Mapping[str, str]
    files: set[str]
    num_steps: int
    num_timed: int


class Trial:
    """Runs one configuration again and again, each time with a failure at another call.

    Args:
        real: use the real clock, for a loader with threads or processes. The calls of two runs then differ a little.

    Attributes:
        whole: the run without a failure.
    """

    def __init__(self, config: TrainConfig, *, real: bool = False) -> None:
        self._config, self._real = config, real
        self._client = MlflowClient(config.tracking.uri)
        self.num_not_raised = 0
        self.whole = self.run(None)
        assert (self.whole.error, self.whole.left) == ("", [])

    def calls(self, kind: str) -> list[int]:
        """The numbers of the calls that can fail in this way."""
        names = self.whole.calls
        return [at for at, name in enumerate(names, 1) if kind == CUDA_ERROR or name in ALLOCATIONS]

    def run(self, planted: Failure | None) -> Attempt:
        """Runs once."""
        attempt, before = Attempt(), _threads_and_processes()
        double = Double(RealClock() if self._real else VirtualClock())
        double.failure = planted
        if planted is not None and planted.sticky:
            attempt.broken_at = planted.at - 1
        double.cost = lambda name: (0, KERNEL_NS)
        if self._real:
            double.cost = lambda name: (0, REAL_KERNEL_NS)
        else:
            double.call_ns = CALL_NS
        terminal = Terminal(Console(file=StringIO(), width=120))
        with installed(double), dali_on(double), _short(attempt, double):
            try:
                run.run(self._config, single(self._config, []), terminal)
            except (Exception, SystemExit) as error:
                attempt.error = f"{type(error).__name__}: {error}"
        attempt.calls, attempt.said = double.calls, terminal.said
        attempt.left = sorted(_threads_and_processes() - before)
        return attempt

    def recorded(self) -> Recorded:
        """The record of the newest run."""
        tracking = self._config.tracking
        experiment = self._client.get_experiment_by_name(tracking.experiment)
        assert experiment is not None
        newest = ["attributes.start_time DESC"]
        entry = self._client.search_runs([experiment.experiment_id], order_by=newest, max_results=1)[0]
        files = {file.path for file in self._client.list_artifacts(entry.info.run_id)}
        rows: list[dict[str, str]] = []
        if "steps.csv" in files:
            steps = Path(mlflow.artifacts.download_artifacts(f"{entry.info.artifact_uri}/steps.csv"))
            rows = list(csv.DictReader(StringIO(steps.read_text())))
        num_timed = sum(row["device_gap_ms"] != "" for row in rows)
        return Recorded(entry.info.status, entry.data.tags, files, len(rows), num_timed)

    def problems(self, kind: str, at: int) -> list[str]:
        """What is wrong after a failure at this call; empty if all is as it must be."""
        planted = failure(kind, at)
        attempt = self.run(planted)
        if not planted.raised:  # a few calls depend on when Python frees objects
            self.num_not_raised += 1
            return []
        recorded = self.recorded()
        after_training = attempt.num_trained is not None and at > attempt.num_trained
        if kind == OUT_OF_MEMORY and after_training:  # the run is complete, only a probe is missing
            wrong = _problems_of_a_finished_run(attempt, recorded)
        else:
            # of two threads whose calls fail at the same time, the second one may be the first to end the run
            wrong = _problems_of_a_failed_run(attempt, recorded, "CUDA error" if self._real else FIRST)
        wrong += [f"left behind: {name}" for name in attempt.left]
        wrong += [line for line in attempt.said if "could not be closed" in line]
        if missing := FILES - recorded.files:
            wrong.append(f"without {sorted(missing)}")
        if recorded.num_timed != attempt.num_timed:
            wrong.append(f"steps.csv has {recorded.num_timed} times of the device, and {attempt.num_timed} were read")
        if recorded.num_steps - attempt.num_steps not in (0, 1):  # the last step may have failed after its end
            wrong.append(f"steps.csv has {recorded.num_steps} steps, and {attempt.num_steps} were finished")
        return wrong


def _problems_of_a_failed_run(attempt: Attempt, recorded: Recorded, text: str) -> list[str]:
    wrong = []
    if text not in attempt.error:
        wrong.append(f"raised {attempt.error or 'nothing'}")
    if text not in recorded.tags.get("error", ""):
        wrong.append(f"the error tag is {recorded.tags.get('error')}")
    if (recorded.status, "traceback.txt" in recorded.files) != ("FAILED", True):
        wrong.append(f"status {recorded.status}, files {sorted(recorded.files)}")
    return wrong


def _problems_of_a_finished_run(attempt: Attempt, recorded: Recorded) -> list[str]:
    wrong = [] if recorded.status == "FINISHED" else [f"status {recorded.status}"]
    if attempt.error or "error" in recorded.tags:
        wrong.append(f"raised {attempt.error}, the error tag is {recorded.tags.get('error')}")
    if not any("not enough device memory" in line for line in attempt.said):
        wrong.append("nothing said that memory was missing")
    return wrong


@contextmanager
def _short(attempt: Attempt, double: Double) -> Iterator[None]:
    """Makes a run short, and notes when its training ends."""

    def noted(*args: Any, **named: Any) -> None:
        attempt.num_trained = double.num_calls
        probe(*args, **named)

    class Noted(measured_loop.MeasuredLoop):
        def result(self) -> measured_loop.Trained:
            trained = super().result()
            attempt.num_steps = trained.step
            return trained

    def no_picture(path: Path, *_: Any, **__: Any) -> None:
        path.write_bytes(b"")

    with pytest.MonkeyPatch.context() as patch:
        for module in (clock, phases):
            patch.setattr(module, "RING", SHORT_RING)
        patch.setattr(run, "probe", noted)
        patch.setattr(run, "MeasuredLoop", Noted)
        patch.setattr(judge, "own_cost_ns", functools.partial(phases.own_cost_ns, steps=COST_STEPS))
        patch.setattr("loaderlab.report.step_picture.breakdown", no_picture)  # it would take most of the time
        yield


def _threads_and_processes() -> set[str]:
    """The threads of this process and the processes below it."""
    children = {f"process {child.pid} {child.name()}" for child in psutil.Process().children(recursive=True)}
    return children | {f"thread {thread.name} {thread.ident}" for thread in threading.enumerate()}


Make = Callable[..., TrainConfig]

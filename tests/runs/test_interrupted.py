"""Interrupted runs: MLflow has the measurements, the correct status and the cause, and no process is left."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import psutil
import pytest
from mlflow.tracking import MlflowClient

from loaderlab.config import TrainConfig, UserError
from loaderlab.meter.phases import StepMeter
from loaderlab.probes import sequence
from loaderlab.runs import job, measured_loop, run
from loaderlab.system.processes import Terminated, sigterm_raises
from loaderlab.system.terminal import Terminal

Make = Callable[..., TrainConfig]
INTERRUPT_STEP = 30


def descendants() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE}


def kill_worker() -> None:
    worker = next(child for child in psutil.Process().children(recursive=True) if child.pid not in OTHER_PIDS)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait(10)


OTHER_PIDS: set[int] = set()
CASES = [
    (lambda: signal.raise_signal(signal.SIGINT), KeyboardInterrupt, "KILLED", "interrupted by Ctrl-C"),
    (lambda: signal.raise_signal(signal.SIGTERM), KeyboardInterrupt, "KILLED", "interrupted by SIGTERM"),
    (kill_worker, UserError, "FAILED", "worker"),
]


@pytest.mark.parametrize(("interrupt", "raised", "status", "cause"), CASES, ids=["ctrl-c", "sigterm", "worker killed"])
def test_interrupt_in_the_window(
    interrupt: Callable[[], None],
    raised: type[BaseException],
    status: str,
    cause: str,
    make_config: Make,
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    OTHER_PIDS.clear()
    OTHER_PIDS.update(descendants())
    config = make_config(
        "data=vectors",
        "model=feedforward",
        "model.hidden=[8]",
        "data.num_features=8",
        "loader.num_workers=1",
        "steps=100000",
    )
    original_on_step = measured_loop.MeasuredLoop._on_step

    def interrupted_on_step(self: measured_loop.MeasuredLoop, meter: StepMeter) -> None:
        original_on_step(self, meter)
        if meter.num_steps == INTERRUPT_STEP:
            interrupt()

    monkeypatch.setattr(measured_loop.MeasuredLoop, "_on_step", interrupted_on_step)
    with pytest.raises(raised):
        run.run(config, job.single(config, []), terminal)
    client = MlflowClient(config.tracking.uri)
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    assert experiment is not None
    (record,) = client.search_runs([experiment.experiment_id])
    assert record.info.status == status
    assert cause in record.data.tags["error"]
    assert record.data.metrics["rate/samples_per_s"] > 0
    assert "starvation/starved_pct" in record.data.metrics
    assert "train/loss" in record.data.metrics
    assert record.data.tags["verdict"]  # about the measured steps
    assert "rate/ceiling_samples_per_s" not in record.data.metrics  # no probe ran: absent, not zero
    shares = [text for text in terminal.said if "starved of data" in text]  # the table has one too
    assert len(shares) == (2 if cause == "interrupted by Ctrl-C" else 1)
    assert shares[-1].startswith(f"the run ended early, after {INTERRUPT_STEP} steps; until then ")
    assert not any(line.startswith("next: ") for line in terminal.said)
    assert "**ended early**: after " in record.data.tags["mlflow.note.content"]
    names = {entry.path for entry in client.list_artifacts(record.info.run_id)}
    assert {"steps.csv", "breakdown.png", "report.md", "log.txt", "traceback.txt"} <= names
    deadline = time.monotonic() + 20
    while descendants() - OTHER_PIDS and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not descendants() - OTHER_PIDS


def test_interrupt_in_a_probe(make_config: Make, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training had ended: its metrics are kept, and the run is recorded as interrupted."""

    def interrupted(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(sequence, "ceiling", interrupted)
    config = make_config("measure=default", "epochs=5", "measure.warmup_steps=2", "loader.num_workers=1")
    with pytest.raises(KeyboardInterrupt):
        run.run(config, job.single(config, []), terminal)
    client = MlflowClient(config.tracking.uri)
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    assert experiment is not None
    (record,) = client.search_runs([experiment.experiment_id])
    assert record.info.status == "KILLED"
    assert record.data.metrics["val/accuracy"] >= 0
    assert record.data.metrics["rate/samples_per_s"] > 0


class RaisesWhenDeleted:
    """Raises SIGTERM while it is deleted."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def test_sigterm_within_a_finalizer_is_not_lost() -> None:
    with sigterm_raises():
        RaisesWhenDeleted()
        with pytest.raises(Terminated):
            time.sleep(5)

"""Interrupted in the window: what was measured is in MLflow, the status is true, the cause is named, nothing is left."""

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
AT = 30  # steps


def descendants() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE}


def kill_worker() -> None:
    worker = next(child for child in psutil.Process().children(recursive=True) if child.pid not in BEFORE)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait(10)


BEFORE: set[int] = set()
CASES = [
    (lambda: signal.raise_signal(signal.SIGINT), KeyboardInterrupt, "KILLED", "interrupted by Ctrl-C"),
    (lambda: signal.raise_signal(signal.SIGTERM), KeyboardInterrupt, "KILLED", "interrupted by SIGTERM"),
    (kill_worker, UserError, "FAILED", "worker"),
]


@pytest.mark.parametrize(("happens", "raised", "status", "told"), CASES, ids=["ctrl-c", "sigterm", "worker killed"])
def test_in_the_window(
    happens: Callable[[], None],
    raised: type[BaseException],
    status: str,
    told: str,
    make_config: Make,
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    BEFORE.clear()
    BEFORE.update(descendants())
    config = make_config(
        "data=vectors",
        "model=feedforward",
        "model.hidden=[8]",
        "data.num_features=8",
        "loader.num_workers=1",
        "steps=100000",
    )
    undisturbed = measured_loop.MeasuredLoop._on_step

    def disturbed(self: measured_loop.MeasuredLoop, meter: StepMeter) -> None:
        undisturbed(self, meter)
        if meter.num_steps == AT:
            happens()

    monkeypatch.setattr(measured_loop.MeasuredLoop, "_on_step", disturbed)
    with pytest.raises(raised):
        run.run(config, job.single(config, []), terminal)
    client = MlflowClient(config.tracking.uri)
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == status
    assert told in found.data.tags["error"]
    assert found.data.metrics["rate/samples_per_s"] > 0
    assert "starvation/starved_pct" in found.data.metrics
    assert "train/loss" in found.data.metrics
    assert found.data.tags["verdict"]  # of what was measured
    assert "rate/ceiling_samples_per_s" not in found.data.metrics  # no probe ran: absent, not zero
    names = {entry.path for entry in client.list_artifacts(found.info.run_id)}
    assert {"steps.csv", "breakdown.png", "report.md", "log.txt", "traceback.txt"} <= names
    deadline = time.monotonic() + 20
    while descendants() - BEFORE and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not descendants() - BEFORE


def test_in_a_probe(make_config: Make, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training has ended: its figures are kept, and the run says that it was interrupted."""

    def interrupted(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(sequence, "ceiling", interrupted)
    config = make_config("measure=default", "epochs=5", "measure.warmup_steps=2", "loader.num_workers=1")
    with pytest.raises(KeyboardInterrupt):
        run.run(config, job.single(config, []), terminal)
    client = MlflowClient(config.tracking.uri)
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "KILLED"
    assert found.data.metrics["val/accuracy"] >= 0
    assert found.data.metrics["rate/samples_per_s"] > 0


class Finalized:
    """SIGTERM comes while this is taken apart."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def test_within_a_finalizer_it_is_not_lost() -> None:
    with sigterm_raises():
        Finalized()
        with pytest.raises(Terminated):
            time.sleep(5)

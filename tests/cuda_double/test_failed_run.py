"""A run whose device fails: the first error is reported, and what was measured until then is recorded."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from loaderlab.config import TrainConfig
from loaderlab.device.clock import RING
from loaderlab.runs import measured_loop
from loaderlab.runs.job import Job
from loaderlab.runs.run import run
from loaderlab.system.terminal import Terminal
from loaderlab.training.loop import train
from loaderlab.training.step import Progress
from tests.cuda_double.double import Double, Failure
from tests.runs.test_run import recorded

STEPS = 2 * RING  # before the failure; the device times of the newest steps are lost with the device


class CudaError(RuntimeError):
    """An error of CUDA: each later call raises it again."""


def test_a_failed_device_does_not_hide_its_first_error(
    double: Double,
    make_config: Callable[..., TrainConfig],
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    errors: list[CudaError] = []
    double.cost = lambda name: (1000, 1000)

    def error() -> CudaError:
        errors.append(CudaError(f"CUDA error number {len(errors) + 1}"))
        return errors[-1]

    def failing(*args: object, **settings: object) -> None:
        parts, meter, progress, observers = args
        on_step = observers.on_step  # type: ignore[attr-defined]

        def then_fail(progress: Progress, meter: object) -> None:
            on_step(progress, meter)
            double.timeline.end_step(double.default_stream.queue)
            if progress.step == STEPS:
                double.failure = Failure(double.num_calls + 1, error, sticky=True)

        observers.on_step = then_fail  # type: ignore[attr-defined]
        train(parts, meter, progress, observers, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(measured_loop, "train", failing)
    config = make_config(
        "device=cuda", "loader.num_workers=0", f"steps={2 * STEPS}", "evaluate=false", "measure.device_samples=false"
    )
    with pytest.raises(CudaError, match="number 1$"):
        run(config, Job("run", "run"), terminal)
    failed = recorded(config)[0]
    assert failed.info.status == "FAILED"
    assert "CUDA error number 1" in failed.data.tags["error"]
    assert failed.data.metrics["time/step_ms"] > 0

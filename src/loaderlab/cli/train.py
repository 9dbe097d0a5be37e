"""``loaderlab train``: measures and records one training run; with ``-m`` a sweep of runs."""

from __future__ import annotations

import os
from collections.abc import Sequence

from loaderlab.cli.composed import composed
from loaderlab.config import TrainConfig, UserError, WrongUsage, refuse_single, refuse_typed
from loaderlab.system.processes import importing


def job(config: TrainConfig, overrides: list[str]) -> None:
    """Does one training run in this process, and judges its gate after it is recorded."""
    refuse_typed(config, overrides)
    refuse_single(config)
    if config.launch.is_distributed:  # torch reads it when it is imported; its errors name neither a rank nor a reason
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    with importing():
        from loaderlab.runs.job import single
        from loaderlab.runs.start import start_run
        from loaderlab.runs.utilization_gate import check_run
        from loaderlab.system.terminal import Terminal

    job, terminal = single(config, overrides), Terminal()
    result = start_run(config, job, terminal)
    if result.error:
        raise (WrongUsage if result.wrong_usage else UserError)(result.error)
    check_run(config, job.name, result.figures, terminal)


def start(arguments: Sequence[str]) -> int:
    """The exit code, after running the command."""
    return composed("train", TrainConfig, job, arguments)

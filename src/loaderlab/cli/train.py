"""``loaderlab train``: measures and records one training run; with ``-m`` a sweep of runs."""

from __future__ import annotations

from collections.abc import Sequence

from loaderlab.cli.composed import composed
from loaderlab.config import TrainConfig
from loaderlab.system.processes import importing


def job(config: TrainConfig, overrides: list[str]) -> None:
    """Does one training run in this process."""
    with importing():
        from loaderlab.runs.job import single
        from loaderlab.runs.run import run
        from loaderlab.system.terminal import Terminal

    run(config, single(config, overrides), Terminal())


def start(arguments: Sequence[str]) -> int:
    """The exit code, after running the command."""
    return composed("train", TrainConfig, job, arguments)

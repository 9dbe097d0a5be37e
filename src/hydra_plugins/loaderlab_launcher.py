"""The launcher of a multirun. It lives here because Hydra takes launchers from this namespace package only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from loaderlab import cli, sweep
from loaderlab.config import TrainConfig, UserError


class LoaderlabLauncher(Launcher):  # type: ignore[misc]
    """Composes and checks every job of a sweep, then has them run one after the other, each in a fresh process."""

    def __init__(self, **_: Any) -> None:
        self._context: HydraContext | None = None
        self._config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Raises what `loaderlab.sweep.run_sweep` raises, and `UserError` before the first job where one is wrong."""
        assert self._context is not None
        assert self._config is not None
        jobs = []
        for index, overrides in enumerate(job_overrides):
            composed = self._context.config_loader.load_sweep_config(self._config, list(overrides))
            with open_dict(composed):
                del composed["hydra"]
            jobs.append((_typed(composed, initial_job_idx + index, overrides), list(overrides)))
        sweep.run_sweep(jobs, list(self._config.hydra.overrides.task))
        return [JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED) for overrides in job_overrides]


def _typed(composed: DictConfig, index: int, overrides: Sequence[str]) -> TrainConfig:
    try:
        config = cli.typed(composed, TrainConfig)
        if config.resume is not None:
            raise UserError(f"resume={config.resume}: continues one run. Leave out -m")
    except UserError as error:
        raise UserError(f"job {index + 1} ({' '.join(overrides)}): {error}\nNo job was started.") from None
    return config

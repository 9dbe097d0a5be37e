"""The launcher of a multirun. It lives here because Hydra takes launchers from this namespace package only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from loaderlab.cli.compose import typed
from loaderlab.config import TrainConfig, UserError, WrongUsage, refuse_typed
from loaderlab.runs import sweep

NO_ACCELERATOR = "accelerator=none"


class LoaderlabLauncher(Launcher):
    """Composes and checks every job of a sweep, then runs them one after the other, each in a fresh process."""

    def __init__(self, **_: Any) -> None:
        self._context: HydraContext | None = None
        self._config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Raises the errors of `loaderlab.runs.sweep.run_sweep`, and `UserError` before the first job if any job is wrong."""
        assert self._config is not None
        planned = [list(overrides) for overrides in job_overrides]
        # first, because the settings of one kind are refused in jobs of the other
        sweep.check_kind({text != NO_ACCELERATOR for job in planned for text in job if text.startswith("accelerator=")})
        resume = self._composed(planned[0], 0).resume
        if resume is not None and all(_only_resumes(overrides) for overrides in planned):
            planned = self._recorded(planned[0])
        jobs = [(self._composed(overrides, index), overrides) for index, overrides in enumerate(planned)]
        if any(config.resume != resume for config, _ in jobs):
            raise WrongUsage("resume: a command can resume only one sweep. Leave resume out of the axes")
        jobs = [(replace(config, resume=None), overrides) for config, overrides in jobs]
        sweep.run_sweep(jobs, list(self._config.hydra.overrides.task), resume)
        return [JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED) for overrides in job_overrides]

    def _recorded(self, given: list[str]) -> list[list[str]]:
        """The overrides of the jobs of the sweep to resume, as they were typed."""
        config = self._composed(given, 0)
        assert config.resume is not None
        recorded = sweep.recorded_overrides(config.tracking, config.resume)
        return [[*(text for text in overrides if not text.startswith("tracking.")), *given] for overrides in recorded]

    def _composed(self, overrides: Sequence[str], index: int) -> TrainConfig:
        assert self._context is not None
        assert self._config is not None
        composed = self._context.config_loader.load_sweep_config(self._config, list(overrides))
        with open_dict(composed):
            del composed["hydra"]
        try:
            config = typed(composed, TrainConfig)
            refuse_typed(config, overrides)
            return config
        except UserError as error:
            raise WrongUsage(f"job {index + 1} ({' '.join(overrides)}): {error}\nNo job was started.") from None


def _only_resumes(overrides: Sequence[str]) -> bool:
    return all(text.startswith(("resume=", "tracking.", "sweep.", "fail_if.")) for text in overrides)

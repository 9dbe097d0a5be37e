"""Starts a run as its settings say: in this process, or on ranks."""

from __future__ import annotations

from loaderlab.config import LocalLaunch, NodesLaunch, SlurmLaunch, TrainConfig
from loaderlab.runs.job import Job, RunResult
from loaderlab.system.terminal import Terminal


def start_run(config: TrainConfig, job: Job, terminal: Terminal) -> RunResult:
    """Runs a job to its end.

    Raises:
        UserError, KeyboardInterrupt: see `loaderlab.runs.run.run`. A job of several ranks that failed returns its error in the result.
    """
    match config.launch:
        case LocalLaunch() | NodesLaunch():
            from loaderlab.runs.elastic import node_spec, run_ranks

            return run_ranks(config, job, terminal, node_spec(config.launch, config))
        case SlurmLaunch():
            from loaderlab.runs.slurm_launch import run_on_slurm

            return run_on_slurm(config, job, terminal)
        case _:
            from loaderlab.runs.run import run

            return run(config, job, terminal)

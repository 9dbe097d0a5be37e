"""Runs a command whose configuration Hydra composes: from the arguments to a typed configuration, a job and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from loaderlab.cli.arguments import asks_for_help, multirun_first
from loaderlab.cli.compose import refuse_no_choice, typed
from loaderlab.cli.errors import explain
from loaderlab.cli.frame import FULL_ERROR, framed
from loaderlab.cli.help import help_text
from loaderlab.cli.schemas import CONF, register
from loaderlab.config import WrongUsage
from loaderlab.system.streams import lossy

T = TypeVar("T")
Job = Callable[[T, list[str]], None]


def main(config_name: str, kind: type[T], job: Job[T], arguments: Sequence[str]) -> int:
    """The exit code of a command, after composing its configuration and calling ``job(config, overrides)``.

    See `loaderlab.cli.frame.framed` for the exit codes.

    Args:
        config_name: train or compare: a file under ``conf/``.
        kind: the dataclass of the configuration.
        job: uses the configuration; not called for ``--help``. In a sweep, the launcher runs the jobs instead.
        arguments: everything typed after the program's name, including flags.
    """

    def work() -> None:
        register()
        try:
            if asks_for_help(arguments):
                text = help_text(config_name, arguments)
                with lossy():
                    print(text)
            else:
                refuse_no_choice(arguments)
                _run(config_name, kind, job, arguments)
        except (HydraException, OmegaConfBaseException) as error:
            if os.environ.get(FULL_ERROR):
                raise
            raise WrongUsage(explain(error, config_name, arguments)) from error

    return framed(config_name, work)


def _run(config_name: str, kind: type[T], job: Job[T], arguments: Sequence[str]) -> None:
    """Lets Hydra compose the configuration and call the job.

    Raises:
        Exception: an error of composing or of the job.
    """
    failures: list[Exception] = []

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)
    def app(cfg: DictConfig) -> None:
        try:
            job(typed(cfg, kind), list(HydraConfig.get().overrides.task))
        except Exception as error:  # if it left this function, Hydra would print a line before our message
            failures.append(error)

    with _handed_to_hydra(arguments):
        app()
    if failures:
        raise failures[0]


@contextmanager
def _handed_to_hydra(arguments: Sequence[str]) -> Iterator[None]:
    """Sets `sys.argv`, the only place from which Hydra reads the arguments of a sweep.

    HYDRA_FULL_ERROR makes Hydra raise errors instead of printing them, so that we can print our own message.
    """
    typed_argv, full_error = sys.argv, os.environ.get(FULL_ERROR)
    sys.argv = [typed_argv[0], *multirun_first(arguments)]
    os.environ[FULL_ERROR] = "1"
    try:
        yield
    finally:
        sys.argv = typed_argv
        del os.environ[FULL_ERROR]
        if full_error is not None:
            os.environ[FULL_ERROR] = full_error

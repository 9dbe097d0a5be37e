"""A command that Hydra composes: read the arguments, type the configuration, run the job, and return an exit code."""

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
    """Runs a command: composes, types the configuration, calls ``job(config, overrides)``.

    Args:
        config_name: train or compare: a file under ``conf/``.
        kind: its dataclass.
        job: what to do with the configuration; not called for ``--help``. In a sweep the launcher runs the jobs instead.
        arguments: what was typed after the program's name, flags included.

    Returns:
        The exit code, see `loaderlab.cli.frame.framed`.
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
    """Has Hydra compose and call the job.

    Raises:
        Exception: whatever composing or the job raises.
    """
    failures: list[Exception] = []

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)
    def app(cfg: DictConfig) -> None:
        try:
            job(typed(cfg, kind), list(HydraConfig.get().overrides.task))
        except Exception as error:  # Hydra would print a line of its own before ours
            failures.append(error)

    with _handed_to_hydra(arguments):
        app()
    if failures:
        raise failures[0]


@contextmanager
def _handed_to_hydra(arguments: Sequence[str]) -> Iterator[None]:
    """Hydra reads its arguments from `sys.argv`, and has no other way to take those of a sweep.

    HYDRA_FULL_ERROR makes it raise errors instead of printing them: the message is ours.
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

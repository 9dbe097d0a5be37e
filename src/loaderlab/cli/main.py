"""What every entry point calls: compose, type the configuration, run the job, and end with an exit code."""

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
from loaderlab.cli.help import help_text
from loaderlab.cli.platforms import unsupported
from loaderlab.cli.schemas import CONF, register
from loaderlab.config import Failed, UserError
from loaderlab.system.doctor import working_folders
from loaderlab.system.streams import STDOUT_CLOSED, lossy, prepare_streams
from loaderlab.system.user import give_name_and_home

T = TypeVar("T")
Job = Callable[[T, list[str]], None]
INTERRUPTED = 130  # the shell's exit code of a program ended by Ctrl-C
FULL_ERROR = "HYDRA_FULL_ERROR"


def main(config_name: str, kind: type[T], job: Job[T], arguments: Sequence[str]) -> int:
    """Runs an entry point: composes, types the configuration, calls ``job(config, overrides)``.

    Args:
        config_name: train, trace or compare: a file under ``conf/``.
        kind: its dataclass.
        job: what to do with the configuration; not called for ``--help``. In a sweep the launcher runs the jobs instead.
        arguments: what was typed after the program's name, flags included.

    Returns:
        The exit code: 0 when all went well, 1 on an error, 130 on Ctrl-C, 143 on SIGTERM.

    HYDRA_FULL_ERROR=1 shows the frames of an error that is otherwise explained in one message.
    """
    if reason := unsupported(sys.platform):
        print(f"error: {reason}", file=sys.stderr)
        return 1
    prepare_streams()
    if reason := _unusable():
        print(f"error: {reason}", file=sys.stderr)
        return 1
    give_name_and_home()
    register()
    try:
        if asks_for_help(arguments):
            text = help_text(config_name, arguments)
            with lossy():
                print(text)
        else:
            refuse_no_choice(arguments)
            _run(config_name, kind, job, arguments)
        return 0
    except (HydraException, OmegaConfBaseException, UserError, Failed) as error:
        if os.environ.get(FULL_ERROR):
            raise
        print(f"\nerror: {explain(error, config_name, arguments)}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of the output has ended: `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except KeyboardInterrupt as interrupt:
        print("\ninterrupted: what was recorded before is kept", file=sys.stderr)
        return int(getattr(interrupt, "exit_code", INTERRUPTED))


def _unusable() -> str:
    """Why nothing can be run in these streams and folders; empty if it can."""
    if sys.stdout is None:
        return STDOUT_CLOSED
    check = working_folders()
    return check.text if check.state == "fails" else ""


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

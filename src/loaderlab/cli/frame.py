"""The steps that every command shares: checks of the system, the process's streams, and the message and exit code of an error.

Does not import Hydra.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from loaderlab.cli.platforms import unsupported
from loaderlab.config import ExitCode, Failed, UserError
from loaderlab.system import extras
from loaderlab.system.doctor import working_folders
from loaderlab.system.program import command
from loaderlab.system.streams import STDOUT_CLOSED, discard_stdout, prepare_streams
from loaderlab.system.user import give_name_and_home

FULL_ERROR = "HYDRA_FULL_ERROR"
BROKEN_PIPE = 128 + 13  # as the shell reports SIGPIPE


def framed(name: str, work: Callable[[], None]) -> int:
    """The exit code after the work of a command, see `ExitCode`; 141 if the reader of stdout ended, as in ``… | head``.

    HYDRA_FULL_ERROR=1 shows the traceback of an error that is otherwise printed as one message.

    Args:
        name: the command's name: train.
        work: raises `UserError` or `Failed` with a message for the user.
    """
    if reason := unsupported(sys.platform):
        return failed(reason)
    prepare_streams()
    if reason := _unusable():
        return failed(reason)
    give_name_and_home()
    try:
        work()
        return ExitCode.SUCCESS
    except (UserError, Failed) as error:
        if os.environ.get(FULL_ERROR):
            raise
        return failed(f"{error}", error.exit_code, before="\n")
    except ModuleNotFoundError as error:
        message = extras.missing(command(name), error.name or "")
        if not message or os.environ.get(FULL_ERROR):
            raise
        return failed(message)
    except BrokenPipeError:
        discard_stdout()
        return BROKEN_PIPE
    except KeyboardInterrupt as interrupt:
        print("\ninterrupted: everything recorded so far is kept", file=sys.stderr)
        return int(getattr(interrupt, "exit_code", ExitCode.INTERRUPTED))


def failed(reason: str, code: ExitCode = ExitCode.FAILED, *, before: str = "") -> ExitCode:
    """The exit code, after printing the reason on stderr."""
    print(f"{before}error: {reason}", file=sys.stderr)
    return code


def _unusable() -> str:
    """Why no command can run with this stdout or these folders; empty if one can."""
    if sys.stdout is None:
        return STDOUT_CLOSED
    check = working_folders()
    return check.text if check.state == "fails" else ""

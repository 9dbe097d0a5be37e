"""Runs a user's script as ``python script.py`` and ``python -m package.module`` do. Does not import torch.

The exception that ends the script passes through to the interpreter, which prints it and sets the exit code as usual. Only the
frames of this package are left out of the printed traceback.
"""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import Any

from loaderlab.config import UserError, WrongUsage

MAIN = "__main__"
# the function of ``python -m``: the public `runpy.run_module` gives the module another place, which breaks pickle and spawn
_run_module: Callable[..., Any] = runpy._run_module_as_main  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Program:
    """What to run.

    Attributes:
        name: the path of a script or of a folder with a ``__main__.py``; or the name of a module.
        is_module: as with ``python -m``.
        arguments: those of the script.
    """

    name: str
    is_module: bool
    arguments: Sequence[str] = ()

    def checked(self, command: str = "watch") -> None:
        """Checks that there is such a script or module.

        Args:
            command: of loaderlab that runs it.

        Raises:
            UserError: there is none, it cannot be read, or it does not parse.
        """
        if self.is_module:
            return  # the interpreter finds it only with its own sys.path, and says so clearly
        path = Path(self.name)
        if path.is_dir():
            if not (path / "__main__.py").is_file():
                raise WrongUsage(f"{self.name}: is a folder without a __main__.py, so there is no script to run")
            return
        try:
            source = path.read_bytes()
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise WrongUsage(
                f"{self.name}: {reason}. Type the path of a script: loaderlab {command} train.py"
            ) from None
        try:
            compile(source, os.path.abspath(self.name), "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:  # ValueError: the file contains a null byte
            shown = "".join(traceback.format_exception_only(error)).rstrip()
            raise UserError(f"{self.name} does not parse, so it was not started\n{shown}") from None


def run(program: Program, ended: Callable[[BaseException | None], None], never_started: Callable[[], None]) -> None:
    """Runs the program in this process. Its exception, SystemExit and KeyboardInterrupt included, passes through.

    Args:
        ended: called when the program's own code has ended, with its exception, before the interpreter shuts down.
        never_started: called instead if there is no such module, or if it does not parse.
    """
    sys.argv = [program.name, *program.arguments]
    before, module = sys.modules[MAIN], ModuleType(MAIN)
    sys.modules[MAIN] = module
    try:
        if program.is_module:
            _set_path(os.getcwd())
            _run_module(program.name)
        elif Path(program.name).is_dir():
            _set_path(os.path.join(os.getcwd(), program.name))
            _run_module(MAIN, alter_argv=False)
        else:
            _set_path(os.path.dirname(os.path.realpath(program.name)))
            exec(_prepared(module, before, os.path.join(os.getcwd(), program.name)), module.__dict__)
    except BaseException as error:
        _hide_own_frames(error)
        if _has_started(error):
            ended(error)
        else:
            never_started()
        raise
    ended(None)


def _set_path(folder: str) -> None:
    """Puts the folder where the interpreter would, instead of the folder of this program."""
    if getattr(sys.flags, "safe_path", False):
        return
    if sys.path and sys.path[0] in (
        "",
        os.getcwd(),
        os.path.dirname(os.path.realpath(sys.orig_argv[0])),
        *_own_folders(),
    ):
        sys.path[0] = folder
    else:
        sys.path.insert(0, folder)


def _own_folders() -> list[str]:
    """The folders that the interpreter put first for this program: of the console script, for example."""
    return [os.path.dirname(os.path.realpath(argument)) for argument in sys.orig_argv[1:2]]


def _prepared(module: ModuleType, before: ModuleType, path: str) -> CodeType:
    """The code of a script, after giving its module what the interpreter would. ``before``: the module of this program.

    Raises:
        SyntaxError: the script does not parse.
    """
    if "__annotations__" in vars(before):  # the interpreter of Python 3.13 and earlier gives it to the module
        vars(module).update(__annotations__={})
    module.__dict__.update(
        __file__=path,
        __builtins__=sys.modules["builtins"],
        __loader__=SourceFileLoader(MAIN, path),
        __cached__=None,
    )
    return compile(Path(path).read_bytes(), path, "exec", dont_inherit=True)


# ---- the traceback -----------------------------------------------------------------------------------------------------


def _has_started(error: BaseException) -> bool:
    """Whether a line of the program was executed: its traceback does not end in the code that looks for modules."""
    frames, files = error.__traceback__, []
    while frames is not None:
        files.append(frames.tb_frame.f_code.co_filename)
        frames = frames.tb_next
    return any(not name.startswith("<frozen ") and name != __file__ for name in files)


def _hide_own_frames(error: BaseException) -> None:
    """Makes the interpreter print the traceback of an error without this package's frames before the script's."""
    own = error.__traceback__
    shown = own.tb_next if own is not None else None  # the first frame is `run`
    before = sys.excepthook

    def excepthook(kind: type[BaseException], value: BaseException, frames: TracebackType | None) -> Any:
        if value is error:
            value.__traceback__ = frames = shown
        return before(kind, value, frames)

    sys.excepthook = excepthook

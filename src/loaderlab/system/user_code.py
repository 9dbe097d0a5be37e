"""Imports a user's own function by name, ``package.module:function``, and calls it with keyword arguments."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

from loaderlab.config import UserError, refuse
from loaderlab.system.causes import described, reason

FAILURES = (Exception, SystemExit)  # SystemExit too: ``exit()`` in user code must not end the run without a record


def call(setting: str, target: str, options: dict[str, Any]) -> Any:
    """The function's result. The working folder is importable, as with ``python -m``.

    Raises:
        UserError: it cannot be imported, is not callable, does not accept the options, or raises. Its own exception is the
            cause, with its frames.
    """
    function = _imported(setting, target)
    try:
        return function(**options)
    except FAILURES as error:
        where = setting.rpartition(".")[0]
        raise UserError(
            f"{setting}={target}: calling it with {where}.options={options} failed: {described(error)}. "
            "HYDRA_FULL_ERROR=1 shows where"
        ) from error


def function(setting: str, target: str, *arguments: str) -> Callable[..., Any]:
    """The function, which is called later, with these positional arguments.

    Args:
        arguments: their names, for the message.

    Raises:
        UserError: it cannot be imported, is not callable, or does not accept so many arguments.
    """
    imported = _imported(setting, target)
    try:
        signature = inspect.signature(imported)
    except (TypeError, ValueError):  # of some functions written in C
        return imported
    try:
        signature.bind(*arguments)
    except TypeError as error:
        name = target.partition(":")[2]
        raise refuse(
            setting,
            target,
            f"it is called as {name}({', '.join(arguments)}), but its arguments are {signature}: {reason(error)}",
            f"{setting}=package.module:function",
            error=UserError,
        ) from None
    return imported


def _imported(setting: str, target: str) -> Callable[..., Any]:
    module_name, colon, name = target.partition(":")
    if not colon or not module_name or not name:
        raise refuse(setting, target, "must be package.module:function", f"{setting}=my_data:make")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except FAILURES as error:
        raise UserError(
            f"{setting}={target}: importing {module_name} failed: {described(error)}. "
            f"It must be importable from {os.getcwd()} or be installed"
        ) from error
    function: Any = module
    try:
        for part in name.split("."):
            function = getattr(function, part)
    except AttributeError:
        public = [entry for entry in vars(module) if not entry.startswith("_") and callable(getattr(module, entry))]
        raise UserError(
            f"{setting}={target}: {module_name} has no {name}. It has: {', '.join(public) or 'none'}"
        ) from None
    if not callable(function):
        raise UserError(f"{setting}={target}: {name} is a {type(function).__name__}, not a function")
    imported: Callable[..., Any] = function
    return imported

"""Calls a function as soon as a module was imported, without importing it. Does not import torch.

The user's script decides when torch is imported: it may set environment variables first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Hook = Callable[[ModuleType], None]


class AfterImport(MetaPathFinder):
    """A finder that finds nothing itself, and runs a hook after a module that another finder found was executed.

    Args:
        hooks: by the module's full name. A hook runs once; at `install`, if the module has been imported already.
    """

    def __init__(self, hooks: dict[str, Hook]) -> None:
        self._hooks = dict(hooks)

    def install(self) -> None:
        for name in [*self._hooks]:
            if (module := sys.modules.get(name)) is not None:
                self._hooks.pop(name)(module)
        sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._hooks:
            return None
        spec = self._spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        loader: Any = spec.loader  # most loaders belong to one module, so this changes no other import
        execute = loader.exec_module

        def executed(module: ModuleType) -> None:
            del vars(loader)["exec_module"]
            execute(module)
            if (hook := self._hooks.pop(fullname, None)) is not None:
                hook(module)

        vars(loader)["exec_module"] = executed
        return spec

    def _spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        """The spec from the first other finder that has one."""
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find is None else find(fullname, path, target)
            if spec is not None:
                return spec
        return None

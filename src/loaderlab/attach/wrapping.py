"""Wraps a method of a class of another package. Does not import torch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any


def wrap(cls: type | ModuleType, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replaces a method of a class or a function of a module by what ``make`` returns for it; its name, documentation and signature stay."""
    original = getattr(cls, name)
    setattr(cls, name, functools.wraps(original)(make(original)))

"""Wraps a method of a class of another package. Does not import torch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def wrap(cls: type, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replaces a method by what ``make`` returns for it; its name, documentation and signature stay."""
    original = getattr(cls, name)
    setattr(cls, name, functools.wraps(original)(make(original)))

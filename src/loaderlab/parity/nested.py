"""Compares two batches of any nesting: the same structure, tensors, arrays and plain values."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from loaderlab.loaders.nesting import leaves, parts

PLAIN = (bool, int, float, complex, str, bytes, type(None))


def incomparable(content: Any) -> str:
    """What in a batch cannot be compared, for a note; empty if everything can."""
    for leaf in leaves(content):
        if isinstance(leaf, torch.Tensor):
            if type(leaf) is not torch.Tensor or leaf.layout is not torch.strided or leaf.is_quantized:
                return f"a {type(leaf).__name__} that is not an ordinary tensor"
        elif isinstance(leaf, np.ndarray):
            if leaf.dtype.hasobject:
                return "an array of objects"
        elif not isinstance(leaf, (*PLAIN, np.generic)):
            return f"a {type(leaf).__name__}"
    return ""


def difference(own: Any, expected: Any, where: str = "batch") -> str:
    """The first difference between two batches whose leaves can be compared, with its place; empty if they are equal.

    >>> difference({"boxes": [torch.zeros(1, 4)]}, {"boxes": [torch.zeros(2, 4)]})
    "batch['boxes'][0] has the shape (1, 4), expected (2, 4)"
    """
    if type(own) is not type(expected):
        return f"{where} is a {type(own).__name__}, expected a {type(expected).__name__}"
    inside, others = parts(own), parts(expected)
    if inside is None or others is None:
        return _of_leaves(own, expected, where)
    if list(inside) != list(others):
        return f"{where} has the parts {_listed(inside)}, expected {_listed(others)}"
    texts = (difference(inside[key], others[key], f"{where}[{key!r}]") for key in inside)
    return next((text for text in texts if text), "")


def _of_leaves(own: Any, expected: Any, where: str) -> str:
    if not isinstance(own, torch.Tensor | np.ndarray):
        same = own == expected or (own != own and expected != expected)  # NaN equals NaN
        return "" if same else f"{where} is {own!r}, expected {expected!r}"
    if own.dtype != expected.dtype:
        return f"{where} has the dtype {own.dtype}, expected {expected.dtype}"
    if own.shape != expected.shape:
        return f"{where} has the shape {tuple(own.shape)}, expected {tuple(expected.shape)}"
    return "" if _are_equal(own, expected) else f"{where} has other values than expected"


def _are_equal(own: Any, expected: Any) -> bool:
    """Whether two tensors, or two arrays, of one dtype and shape have the same values; NaN equals NaN."""
    if isinstance(own, torch.Tensor):
        return torch.allclose(own, expected, rtol=0, atol=0, equal_nan=True)
    return np.array_equal(own, expected, equal_nan=np.issubdtype(own.dtype, np.inexact))


def _listed(inside: dict[Any, Any]) -> str:
    return f"{', '.join(map(str, list(inside)[:5]))} ({len(inside)})"

"""Differences between two batches of any nesting."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import pytest
import torch

from loaderlab.parity.nested import difference, incomparable

Pair = collections.namedtuple("Pair", "first second")
NAN = float("nan")


@pytest.mark.parametrize(
    ("own", "expected", "text"),
    [
        ({"a": [torch.ones(2)]}, {"a": [torch.ones(2)]}, ""),
        (torch.tensor([NAN]), torch.tensor([NAN]), ""),
        (np.array([NAN]), np.array([NAN]), ""),
        (NAN, NAN, ""),
        (np.array(["a"]), np.array(["a"]), ""),
        ({"a": [torch.ones(2)]}, {"a": [torch.zeros(2)]}, "batch['a'][0] has other values than expected"),
        ([torch.ones(2)], [torch.ones(3)], "batch[0] has the shape (2,), expected (3,)"),
        ([torch.ones(2)], [torch.ones(2).int()], "batch[0] has the dtype torch.float32, expected torch.int32"),
        ([1], (1,), "batch is a list, expected a tuple"),
        ([1], [1, 2], "batch has the parts 0 (1), expected 0, 1 (2)"),
        (Pair(1, "x"), Pair(1, "y"), "batch[1] is 'x', expected 'y'"),
        (np.array([1]), np.array([2]), "batch has other values than expected"),
    ],
)
def test_the_first_difference_is_named(own: Any, expected: Any, text: str) -> None:
    assert difference(own, expected) == text


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"a": (torch.ones(1), np.ones(1), 1, 1.5, "x", b"x", None, np.int64(1))}, ""),
        (torch.max(torch.ones(2, 2), dim=0), ""),
        ([object()], "a object"),
        ([np.array([object()])], "an array of objects"),
        ([torch.eye(2).to_sparse()], "a Tensor that is not an ordinary tensor"),
    ],
)
def test_what_cannot_be_compared_is_named(content: Any, text: str) -> None:
    assert incomparable(content) == text

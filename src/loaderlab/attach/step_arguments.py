"""Converts the arguments of `Watch.step`: accepts counts and losses of any numeric type, and explains any other value."""

from __future__ import annotations

from typing import Any

import torch

from loaderlab.config import UserError


def sample_count(value: Any) -> int:
    """The number of samples: any whole number of at least 1, from Python, NumPy or torch.

    Raises:
        UserError: it is not such a number.
    """
    try:
        number = _single(value)
        count = int(number)
        if count >= 1 and bool(count == number):
            return count
    except (TypeError, ValueError, OverflowError, RuntimeError):
        pass
    raise UserError(
        f"watch: meter.step(num_samples={_short(value)}): must be a whole number of at least 1: the samples of this batch"
    )


def loss_scalar(value: Any) -> torch.Tensor | None:
    """The loss as a tensor of shape (), without waiting for its device; a number becomes a tensor on the host.

    Raises:
        UserError: it is not a single real number.
    """
    if value is None:
        return None
    if isinstance(value, torch.Tensor):
        if value.numel() == 1 and not value.is_complex():
            return value.detach().reshape(())
    else:
        try:
            return torch.tensor(float(_single(value)), dtype=torch.float64, device="cpu")
        except (TypeError, ValueError, OverflowError, RuntimeError):
            pass
    raise UserError(
        f"watch: meter.step(loss={_short(value)}): must be one number, a tensor or array of one element, or None"
    )


def _single(value: Any) -> Any:
    """The single element of an array or tensor; any other value unchanged."""
    if isinstance(value, str | bytes):
        raise TypeError("text is not a number")
    return value.item() if hasattr(value, "item") else value


def _short(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"tensor of shape {tuple(value.shape)} and {value.dtype}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]}…"

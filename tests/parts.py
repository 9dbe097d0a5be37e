"""Access to the model of a run's parts."""

from __future__ import annotations

from loaderlab.training.loop import Parts
from loaderlab.training.step import ModelStep


def model_step(parts: Parts) -> ModelStep:
    """The step of a real model."""
    assert isinstance(parts.step, ModelStep)
    return parts.step

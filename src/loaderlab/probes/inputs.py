"""The parts of a finished run that the probes need."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from loaderlab.config import MeasureConfig
from loaderlab.data.spec import Split
from loaderlab.loaders.contract import EpochPlan, Loader
from loaderlab.training.loop import Parts


@dataclass(frozen=True)
class ProbeInputs:
    """The parts of a finished run that the probes need.

    Attributes:
        parts: model, optimizer and loaders. The probes close the loader and leave everything else unchanged.
        settings: which probes to run, and how long.
        rebuild: builds a new loader with the run's settings.
        split, plan: the training samples and their batches.
        epoch: the epoch whose samples are used.
        rate: of the run, samples/s.
        busy_ms: mean time of a step without its starved time, ms; only needed with several ranks.
    """

    parts: Parts
    settings: MeasureConfig
    rebuild: Callable[[], Loader]
    split: Split
    plan: EpochPlan
    epoch: int
    accumulate: int
    rate: float
    busy_ms: float = math.nan

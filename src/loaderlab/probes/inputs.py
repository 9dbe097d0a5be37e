"""What the probes need of a finished run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from loaderlab.config import MeasureConfig
from loaderlab.data.spec import Split
from loaderlab.loaders.contract import EpochPlan, Loader
from loaderlab.training.loop import Parts


@dataclass(frozen=True)
class ProbeInputs:
    """What the probes need of a finished run.

    Attributes:
        parts: what was trained. The probes close its loader and leave everything else as it was.
        settings: which probes, and their length.
        rebuild: a new loader like the run's.
        split, plan: the training samples and their batches.
        epoch: whose samples to use.
        rate: of the run, samples/s.
    """

    parts: Parts
    settings: MeasureConfig
    rebuild: Callable[[], Loader]
    split: Split
    plan: EpochPlan
    epoch: int
    accumulate: int
    rate: float

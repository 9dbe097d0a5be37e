"""Settings of an emulated accelerator: a device of a known speed on which a step queues work instead of computing."""

from __future__ import annotations

import math
from dataclasses import dataclass

from loaderlab.config.base import refuse, setting

NONE = "none"
EMULATED = "emulated"  # the value of the tag device.type, and the word that marks every result of an emulated run
SHORTEST_MS = 0.2  # of a step; the host cannot queue shorter steps in time


@dataclass
class AcceleratorConfig:
    """The accelerator that is emulated; ``none``: the step really computes, on ``device``."""

    name: str = setting(NONE, "its name")
    step_ms: float | None = setting(None, "time of a step, ms, for a batch of accelerator.batch_size samples")
    samples_per_s: float | None = setting(None, "instead of accelerator.step_ms: samples per second")
    batch_size: int | None = setting(
        None, "batch size that accelerator.step_ms refers to; null: the run's batch_size", at_least=1
    )
    host_ms: float = setting(2.0, "CPU time of the training process to queue one step, ms", at_least=0)
    steps_ahead: int = setting(4, "steps that the host may be ahead of the accelerator", at_least=2)
    copy_gb_per_s: float = setting(
        25.0, "speed of copies from pinned memory, GB/s; from pageable memory they run at half of it"
    )
    allreduce_ms: float = setting(
        0.0, "time of the all-reduce at the end of a weight update's backward pass, ms", at_least=0
    )
    phases: list[float] = setting(
        [1 / 3, 5 / 9, 1 / 9], "shares of forward, backward and optimizer in the step; their sum is 1"
    )
    min_utilization: float = setting(
        0.9, "utilization from which MLPerf Storage counts the accelerator as fed, 0 to 1", at_least=0
    )
    sample_kb: float | None = setting(
        None, "mean size of a stored sample that the speed was published for, kB (1,000 bytes); null: any"
    )
    source: str = setting("typed by the user", "where its speed comes from")

    def __post_init__(self) -> None:
        if not self.is_emulated:
            return
        for name, value in (("step_ms", self.step_ms), ("samples_per_s", self.samples_per_s)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise refuse(f"accelerator.{name}", value, "must be above 0", f"accelerator.{name}=20")
        if self.copy_gb_per_s <= 0:
            raise refuse(
                "accelerator.copy_gb_per_s", self.copy_gb_per_s, "must be above 0", "accelerator.copy_gb_per_s=25"
            )

    @property
    def is_emulated(self) -> bool:
        """Whether an accelerator is emulated."""
        return self.name != NONE

    @property
    def title(self) -> str:
        """``emulated resnet50_a100``."""
        return f"{EMULATED} {self.name}"

    def sample_ms(self, batch_size: int) -> float:
        """The time of a step per sample, ms, without the all-reduce.

        Args:
            batch_size: of the run.
        """
        if self.samples_per_s is not None:
            return 1e3 / self.samples_per_s
        assert self.step_ms is not None
        return self.step_ms / (self.batch_size or batch_size)

    def requested_rate(self, batch_size: int, accumulate: int = 1) -> float:
        """The rate at which it takes samples if it never waits, samples/s."""
        return 1e3 * batch_size / (self.sample_ms(batch_size) * batch_size + self.allreduce_ms / accumulate)

    def describe(self, batch_size: int) -> str:
        """The name with its speed and its source: the device's name of an emulated run."""
        step_ms, rate = batch_size * self.sample_ms(batch_size), self.requested_rate(batch_size)
        return f"{self.title}: {step_ms:.4g} ms per batch of {batch_size}, {rate:,.0f} samples/s ({self.source})"

"""Settings of an emulated accelerator: a device of a known speed on which a step queues work instead of computing."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from loaderlab.config.base import refuse, setting

NONE = "none"
EMULATED = "emulated"  # the value of the tag device.type, and the word that marks every result of an emulated run
SHORTEST_MS = 0.2  # of a step; the host cannot queue shorter steps in time
IMAGE_FILES, VECTORS = "image_files", "vectors"
DATA_KINDS = ("any", IMAGE_FILES, VECTORS)
POSITIVE = ("step_ms", "samples_per_s", "copy_gb_per_s", "sample_kb", "published_sample_ms")


@dataclass
class AcceleratorConfig:
    """The accelerator that is emulated; ``none``: the step really computes, on ``device``."""

    name: str = setting(NONE, "its name")
    step_ms: float | None = setting(
        None, "time of a step, ms, for a batch of accelerator.batch_size samples", example=20
    )
    samples_per_s: float | None = setting(None, "instead of accelerator.step_ms: samples per second", example=2000)
    batch_size: int | None = setting(
        None, "batch size that accelerator.step_ms refers to; null: the run's batch_size", at_least=1, example=64
    )
    host_ms: float = setting(2.0, "CPU time of the training process to queue one step, ms", at_least=0)
    steps_ahead: int = setting(4, "steps that the host may be ahead of the accelerator", at_least=2)
    copy_gb_per_s: float = setting(
        25.0, "speed of copies from pinned memory, GB/s; from pageable memory they run at half of it", example=25
    )
    allreduce_ms: float = setting(
        0.0, "time of the all-reduce at the end of a weight update's backward pass, ms", at_least=0
    )
    rank_slowdown: list[float] = setting(
        [], "with several ranks: by what factor each rank's step takes longer than set here; []: all take the same time"
    )
    phases: list[float] = setting(
        [1 / 3, 5 / 9, 1 / 9], "shares of forward, backward and optimizer in the step; their sum is 1"
    )
    min_utilization: float = setting(
        0.9, "utilization from which MLPerf Storage counts the accelerator as fed, 0 to 1", at_least=0
    )
    sample_kb: float | None = setting(
        None, "mean size of a stored sample that the speed was published for, kB (1,000 bytes); null: any", example=115
    )
    made_for: str = setting(
        "any", "kind of data that the speed is for; a warning if the data are of another kind", choices=DATA_KINDS
    )
    published_sample_ms: float | None = setting(
        None,
        "time per sample of the source, ms; if another speed is typed, the device's name says so",
        at_least=0,
        example=1,
    )
    source: str = setting("typed by the user", "where its speed comes from")

    def __post_init__(self) -> None:
        if not self.is_emulated:
            return
        self._check_speed()
        self._check_positive()
        if not self.min_utilization <= 1:
            raise refuse(
                "accelerator.min_utilization",
                self.min_utilization,
                "is a share and must be 0 to 1",
                "accelerator.min_utilization=0.9",
            )
        if any(not (factor > 0 and math.isfinite(factor)) for factor in self.rank_slowdown):
            raise refuse(
                "accelerator.rank_slowdown",
                self.rank_slowdown,
                "every factor must be finite and above 0",
                "'accelerator.rank_slowdown=[1,1,1.5,1]'",
            )
        if len(self.phases) != 3 or min(self.phases) < 0 or not abs(sum(self.phases) - 1) < 1e-3:
            raise refuse(
                "accelerator.phases",
                self.phases,
                "must be the three shares of forward, backward and optimizer, each at least 0, with the sum 1",
                "'accelerator.phases=[0.3,0.6,0.1]'",
            )

    def _check_speed(self) -> None:
        """Raises:
        UserError: neither or both of the two ways to give the speed.
        """
        if self.step_ms is None and self.samples_per_s is None:
            raise refuse(
                "accelerator.step_ms",
                "null",
                f"accelerator={self.name} needs the time of a step, or its rate",
                "accelerator.step_ms=20, or accelerator.samples_per_s=2000",
            )
        if self.step_ms is not None and self.samples_per_s is not None:
            raise refuse(
                "accelerator.samples_per_s",
                self.samples_per_s,
                f"cannot be combined with accelerator.step_ms={self.step_ms:.10g}",
                f"accelerator.step_ms=null accelerator.samples_per_s={self.samples_per_s:.10g}",
                is_example=False,
            )

    def _check_positive(self) -> None:
        """Raises:
        UserError: a speed or a size is not a finite number above 0.
        """
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name in POSITIVE and value is not None and not (value > 0 and math.isfinite(value)):
                name, example = f"accelerator.{entry.name}", entry.metadata["example"]
                raise refuse(name, value, "must be finite and above 0", f"{name}={example}")

    def check_batch(self, batch_size: int) -> None:
        """Raises:
        UserError: the step of a batch of this size is too short to be emulated.
        """
        step_ms = batch_size * self.sample_ms(batch_size)
        if step_ms >= SHORTEST_MS * (1 - 1e-9):
            return
        name, value = ("step_ms", self.step_ms) if self.samples_per_s is None else ("samples_per_s", self.samples_per_s)
        override = f"accelerator.step_ms={SHORTEST_MS:g}"
        if self.samples_per_s is not None or self.batch_size is not None:  # then a larger batch takes longer
            least = math.ceil(SHORTEST_MS * (1 - 1e-9) / self.sample_ms(batch_size))
            own = self.batch_size or 0
            override = f"batch_size={own if own >= least else least}"
        raise refuse(
            f"accelerator.{name}",
            f"{value:.10g}",
            f"a step of batch_size={batch_size} would take {step_ms:.3g} ms, and the host cannot queue steps under "
            f"{SHORTEST_MS:g} ms in time",
            override,
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

    def slowdown_of(self, rank: int) -> float:
        """By what factor the steps of a rank take longer than `sample_ms` says."""
        return self.rank_slowdown[rank] if rank < len(self.rank_slowdown) else 1.0

    def copy_ms(self, batch_bytes: float, *, pinned: bool) -> float:
        """The time to copy a batch to it, ms; from pageable memory twice as long as from pinned memory."""
        return batch_bytes / self.copy_gb_per_s / 1e6 * (1 if pinned else 2)

    def requested_rate(self, batch_size: int, accumulate: int = 1, mean_batch: float | None = None) -> float:
        """The rate at which it takes samples if it never waits, samples/s.

        Args:
            batch_size: of the run.
            accumulate: steps per update; the all-reduce and the optimizer's share of a step only occur at updates.
            mean_batch: mean number of samples in the batches of an epoch, if the last one is shorter: it needs a whole
                all-reduce too.
        """
        samples = mean_batch or batch_size
        share = 1 - self.phases[-1] * (1 - 1 / accumulate)
        step_ms = share * self.sample_ms(batch_size) * samples + self.allreduce_ms / accumulate
        return 1e3 * samples / step_ms

    def describe(self, batch_size: int, accumulate: int = 1) -> str:
        """The name with its speed and its source: the device's name of an emulated run."""
        step_ms, rate = batch_size * self.sample_ms(batch_size), self.requested_rate(batch_size, accumulate)
        work = f"{step_ms:.4g} ms per batch of {batch_size}"
        if self.allreduce_ms:
            work += f" and {self.allreduce_ms:.4g} ms per all-reduce"
        if accumulate > 1:
            work += f", one update in {accumulate} steps"
        source, published_ms = self.source, self.published_sample_ms
        if published_ms is not None and not math.isclose(self.sample_ms(batch_size), published_ms, rel_tol=1e-6):
            source = f"speed typed by the user; the preset has {1e3 / published_ms:,.0f} samples/s: {source}"
        return f"{self.title}: {work}, {rate:,.0f} samples/s ({source})"

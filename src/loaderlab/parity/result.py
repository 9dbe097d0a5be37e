"""The result of a parity check: what was compared, and each mismatch with its sample and field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from loaderlab.parity.status import NOT_CHECKED, SAME_WORK, UNLIKE_WORK


@dataclass(frozen=True)
class Mismatch:
    """One field in which a loader differs from the reference.

    Attributes:
        field: ids, order, steps, batches, last batch, labels, shape, dtype, layout, device, pixels, values, crop area,
            crop aspect, crop position, crop repeats, flip, flip repeats, mean.
        text: the first case, with its numbers.
        sample: its id in the split; None if the case is not about a single sample.
        num_cases: samples or batches that differ in this field.
    """

    field: str
    text: str
    sample: int | None = None
    num_cases: int = 1

    def __str__(self) -> str:
        more = f" (and {self.num_cases - 1:,} more)" if self.num_cases > 1 else ""
        return f"{self.field}: {self.text}{more}"


@dataclass(frozen=True)
class ParityResult:
    """Whether a loader does the same work as the reference, and what was compared.

    Attributes:
        not_checked: why nothing could be compared; empty if something was.
        num_samples, num_epochs, batch_size: of the comparison sample by sample.
        num_draws: random crops and flips that were compared; 0 without random transforms.
        inside_levels, border_levels: largest difference of a pixel, of 255, inside an image and in its outermost rows and
            columns; None if the samples are not images.
        mean_levels: largest mean difference of a sample, of 255; None if the samples are not images.
        mean_limit: the allowed `mean_levels` if a GPU decodes the images; None if it does not: then the other two are limited.
        p_values: of each test of the draws; see `loaderlab.parity.distribution`.
        notes: what was not compared, and why.
        mismatches: the first case of each field, in the order of the check.
    """

    not_checked: str = ""
    num_samples: int = 0
    num_epochs: int = 0
    batch_size: int = 0
    num_draws: int = 0
    inside_levels: float | None = None
    border_levels: float | None = None
    mean_levels: float | None = None
    mean_limit: float | None = None
    p_values: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    mismatches: tuple[Mismatch, ...] = ()

    @property
    def status(self) -> str:
        """The value of the tag: ``same work``, ``unlike work: …``, ``not checked: …``."""
        if self.not_checked:
            return f"{NOT_CHECKED}: {self.not_checked}"
        return f"{UNLIKE_WORK}: {self.mismatch_summary}" if self.mismatches else SAME_WORK

    @property
    def mismatch_summary(self) -> str:
        """The first mismatch, and the fields of the others; empty without mismatches."""
        if not self.mismatches:
            return ""
        first, *others = self.mismatches
        return str(first) + (f"; also {', '.join(other.field for other in others)}" if others else "")

    def __str__(self) -> str:
        """One line for the terminal."""
        if self.not_checked or self.mismatches:
            return self.status
        parts = [f"{self.num_samples:,} samples x {self.num_epochs} epochs in batches of {self.batch_size}"]
        if self.inside_levels is not None:
            border = f" ({self.border_levels:g} at the border)" if self.border_levels != self.inside_levels else ""
            parts.append(f"largest pixel difference {self.inside_levels:g}{border}")
        if self.mean_limit is not None and self.mean_levels is not None:
            parts.append(f"a GPU decoded: mean difference up to {self.mean_levels:.2f}, allowed {self.mean_limit:g}")
        if self.p_values:
            low, high = min(self.p_values.values()), max(self.p_values.values())
            parts.append(f"{self.num_draws:,} random crops and flips agree (p {low:.2g} to {high:.2g})")
        return f"{SAME_WORK}: {', '.join([*parts, *self.notes])}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for ``parity.json`` and for other processes."""
        return {"status": self.status, "line": str(self), **asdict(self)}


class ResultBuilder:
    """Collects the results of the parts of a check; `build` returns the `ParityResult`.

    Args:
        num_samples, num_epochs, batch_size: of the comparison sample by sample.
    """

    def __init__(self, num_samples: int = 0, num_epochs: int = 0, batch_size: int = 0) -> None:
        self._compared = ParityResult(num_samples=num_samples, num_epochs=num_epochs, batch_size=batch_size)
        self._mismatches: dict[str, Mismatch] = {}
        self._notes: list[str] = []
        self._p_values: dict[str, float] = {}

    def add_mismatch(self, name: str, text: str, sample: int | None = None) -> None:
        """Stores the first mismatch of a field and counts the others."""
        first = self._mismatches.get(name)
        self._mismatches[name] = (
            replace(first, num_cases=first.num_cases + 1) if first else Mismatch(name, text, sample)
        )

    def differs_in(self, *names: str) -> bool:
        """Whether one of these fields has a mismatch."""
        return any(name in self._mismatches for name in names)

    def add_note(self, text: str) -> None:
        """Records what is not compared, and why."""
        self._notes.append(text)

    def add_pixel_difference(self, inside_levels: float, border_levels: float, mean_levels: float) -> None:
        """Records the largest differences in one batch, of 255 levels; the result has the largest of all batches."""
        self._compared = replace(
            self._compared,
            inside_levels=max(self._compared.inside_levels or 0.0, inside_levels),
            border_levels=max(self._compared.border_levels or 0.0, border_levels),
            mean_levels=max(self._compared.mean_levels or 0.0, mean_levels),
        )

    def set_mean_limit(self, mean_limit: float | None) -> None:
        self._compared = replace(self._compared, mean_limit=mean_limit)

    def set_num_draws(self, num_draws: int) -> None:
        self._compared = replace(self._compared, num_draws=num_draws)

    def add_p_value(self, name: str, p: float) -> None:
        """Records the p value of one test of the draws."""
        self._p_values[name] = p

    def build(self) -> ParityResult:
        return replace(
            self._compared,
            p_values=dict(self._p_values),
            notes=tuple(self._notes),
            mismatches=tuple(self._mismatches.values()),
        )

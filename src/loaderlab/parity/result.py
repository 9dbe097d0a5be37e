"""What a check of parity gives: the facts that were compared, and each mismatch with its sample and field."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from loaderlab.parity.status import NOT_CHECKED, SAME_WORK, UNLIKE_WORK


@dataclass
class Mismatch:
    """One field in which a loader differs from the reference.

    Attributes:
        field: ids, order, steps, batches, last batch, labels, shape, dtype, layout, device, pixels, values, crop area,
            crop aspect, crop position, crop repeats, flip, flip repeats, mean.
        text: the first case, with its numbers.
        sample: its id in the split; None where no single sample is meant.
        num_cases: samples or batches for which the same was found.
    """

    field: str
    text: str
    sample: int | None = None
    num_cases: int = 1

    def __str__(self) -> str:
        more = f" (and {self.num_cases - 1:,} more)" if self.num_cases > 1 else ""
        return f"{self.field}: {self.text}{more}"


@dataclass
class Parity:
    """Whether a loader does the reference's work, and by what that was judged.

    Attributes:
        not_checked: why nothing could be compared; empty where something was.
        num_samples, num_epochs, batch_size: of what was compared sample by sample.
        num_draws: random crops and flips that were compared; 0 where the run draws none.
        inside_levels, border_levels: largest difference of a pixel, of 255, inside an image and in its outermost rows and
            columns; None where the samples are no images.
        p_values: of each test of the draws; see `loaderlab.parity.distribution`.
        notes: what was left out, and why.
        mismatches: the first case of each field, in the order in which they were found.
    """

    not_checked: str = ""
    num_samples: int = 0
    num_epochs: int = 0
    batch_size: int = 0
    num_draws: int = 0
    inside_levels: float | None = None
    border_levels: float | None = None
    p_values: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    mismatches: list[Mismatch] = field(default_factory=list)

    def add(self, name: str, text: str, sample: int | None = None) -> None:
        """Keeps the first mismatch of a field and counts the others."""
        for known in self.mismatches:
            if known.field == name:
                known.num_cases += 1
                return
        self.mismatches.append(Mismatch(name, text, sample))

    @property
    def status(self) -> str:
        """As a tag: ``same work``, ``unlike work: …``, ``not checked: …``."""
        if self.not_checked:
            return f"{NOT_CHECKED}: {self.not_checked}"
        return f"{UNLIKE_WORK}: {self.told}" if self.mismatches else SAME_WORK

    @property
    def told(self) -> str:
        """The first mismatch, and the fields of the others; empty where there is none."""
        if not self.mismatches:
            return ""
        first, *others = self.mismatches
        return str(first) + (f"; also {', '.join(other.field for other in others)}" if others else "")

    def __str__(self) -> str:
        """One line for a person."""
        if self.not_checked or self.mismatches:
            return self.status
        parts = [f"{self.num_samples:,} samples x {self.num_epochs} epochs in batches of {self.batch_size}"]
        if self.inside_levels is not None:
            border = f" ({self.border_levels:g} at the border)" if self.border_levels != self.inside_levels else ""
            parts.append(f"largest pixel difference {self.inside_levels:g}{border}")
        if self.p_values:
            low, high = min(self.p_values.values()), max(self.p_values.values())
            parts.append(f"crops and flips alike in {self.num_draws:,} draws (p {low:.2g} to {high:.2g})")
        return f"{SAME_WORK}: {', '.join([*parts, *self.notes])}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for ``parity.json`` and for another process."""
        return {"status": self.status, "line": str(self), **asdict(self)}

"""Settings of a loader that the tuner can try, and their order by cost. Pure."""

from __future__ import annotations

from dataclasses import dataclass

NATIVE, SPDL, DALI, RESIDENT = "native", "spdl", "dali", "resident"
BETWEEN_STAGES = {SPDL: 5}  # batches that a backend prepares in addition to those of its makers and its queue


@dataclass(frozen=True)
class Branch:
    """A kind of loader: the search looks for the best number of makers in each.

    Attributes:
        backend: native, spdl, dali or resident; ``own`` if a function of the user builds the loader.
        also: settings that change the work of the loader, which are tried on request only, as (name, value).
    """

    backend: str = NATIVE
    also: tuple[tuple[str, str], ...] = ()

    @property
    def title(self) -> str:
        """``native``, or ``native with loader.decoder=torchcodec``."""
        changes = " ".join(f"{name}={value}" for name, value in self.also)
        return f"{self.backend} with {changes}" if changes else self.backend


@dataclass(frozen=True)
class Candidate:
    """Settings that a trial uses. None: does not apply to this loader, or is left at its automatic value.

    Attributes:
        makers: worker processes (native) or threads (spdl, dali); 0: the training process loads the samples itself.
        prefetch: batches queued ahead: by each worker (native), or in the queue (spdl, dali).
        pin_memory, side_stream: how batches are copied to the device.
        persistent: workers stay alive between epochs.
        start_method: how workers start.
    """

    branch: Branch = Branch()
    makers: int = 0
    prefetch: int | None = None
    pin_memory: bool | None = None
    side_stream: bool | None = None
    persistent: bool | None = None
    start_method: str | None = None

    @property
    def batches_ahead(self) -> int:
        """Number of batches that are built or queued ahead of the step."""
        queued = self.prefetch or 0
        if self.branch.backend == SPDL:
            return self.makers + queued + BETWEEN_STAGES[SPDL]
        if self.branch.backend == DALI:
            return queued
        return self.makers * queued

    @property
    def title(self) -> str:
        """In words: ``2 workers, prefetch 4``."""
        kind = "thread" if self.branch.backend in (SPDL, DALI) else "worker"
        resident = self.branch.backend == RESIDENT
        parts = ["samples on the device" if resident else f"{self.makers} {kind}{'s' * (self.makers != 1)}"]
        if self.branch not in (Branch(), Branch("own")):  # a function's loader has no other branch to tell it from
            parts.insert(0, self.branch.title)
        if self.prefetch not in (None, 2) and self.makers:
            parts.append(f"prefetch {self.prefetch}")
        return ", ".join(parts)


def cost(candidate: Candidate, batch_bytes: int, samples_bytes: int) -> tuple[int, int]:
    """The price of a candidate, to be compared: makers, then bytes queued ahead. CPU seconds are measured: see
    `loaderlab.tuning.search`.

    Args:
        batch_bytes: size of a batch.
        samples_bytes: size of all samples, which a resident loader keeps.
    """
    if candidate.branch.backend == RESIDENT:
        return 0, samples_bytes
    return candidate.makers, candidate.batches_ahead * batch_bytes

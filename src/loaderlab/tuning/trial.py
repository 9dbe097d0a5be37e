"""A trial of one candidate, what it measured, and the interface of the engines that run trials. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from loaderlab.tuning.candidate import Branch, Candidate

Interval = tuple[float, float]
LEAST_STEPS = 15  # measured steps that a trial needs

NO_SIZE = "the number of samples in a batch does not show, so a batch counts as one sample: samples/s means batches/s"

NOT_PINNED = "pin_memory=True was not tried, because the copies to the device are a part of the step: set it if they wait for pageable memory"


class TrialFailed(Exception):
    """A trial ended without a result. The message is one line."""


@dataclass(frozen=True)
class Trial:
    """What an engine shall measure.

    Attributes:
        reason: why it is tried, for the progress and the record: ``predicted to feed the device``.
        seconds: length of the measured window.
        probes: also measure the step without the loader, and while the loader runs.
        alone: also measure the loader alone.
        epoch_steps: an epoch ends after at most this many steps, so that the window contains the end of an epoch; None: as
            many as it has.
        round: number of the confirmation round, from 1; 0 in the search.
    """

    candidate: Candidate
    reason: str
    seconds: float
    probes: bool = False
    alone: bool = False
    epoch_steps: int | None = None
    round: int = 0


@dataclass(frozen=True)
class Measured:
    """The result of a trial. None: not measured. Rates are samples/s, shares are percent.

    Attributes:
        rate: of the steps in the window.
        starved_pct, starved_interval: share of the window in which the device waited for data; 95 % interval within the run.
        gap_ms: time lost between two epochs; None without an end of an epoch in the window.
        step_ms: mean length of a step.
        num_steps: in the window.
        late_steps: see `loaderlab.diagnosis.evidence.Evidence.late_steps`: the length of the longest waits, in steps.
        delivery_pct: the part of the starved share in which the batch was on its way to the device.
        ceiling, ceiling_by_threads, contended, loader_alone: the rates of the probes.
        loader_cores: cores that the loader used alone.
        torch_threads: of the step.
        host_ms: time per step for which the host works without waiting for data: it copies, and queues the step's work. None on a
            device that computes on the host itself.
        cpu_s_per_sample: CPU time of the training process and the workers.
        worker_mib: proportional memory of one worker process; host_mib: of all processes, at its peak.
        start_s: from the start of the process to the first step.
        total_s: the whole trial.
        run_id: of its record; empty without one.
    """

    rate: float
    starved_pct: float
    starved_interval: Interval | None
    step_ms: float
    num_steps: int
    gap_ms: float | None = None
    late_steps: float | None = None
    delivery_pct: float = 0.0
    ceiling: float | None = None
    ceiling_by_threads: Mapping[int, float] = field(default_factory=dict)
    contended: float | None = None
    loader_alone: float | None = None
    loader_cores: float | None = None
    torch_threads: int | None = None
    host_ms: float | None = None
    cpu_s_per_sample: float | None = None
    worker_mib: float | None = None
    host_mib: float | None = None
    start_s: float | None = None
    total_s: float = 0.0
    run_id: str = ""


@dataclass(frozen=True)
class Facts:
    """What an engine knows before the first trial, or learns from it.

    Attributes:
        current: the settings now.
        branches: the branches that may be tried, the current one first.
        epoch_steps: steps of a whole epoch; None if unknown, or if the time between epochs is left out.
        batch_size: samples of a step.
        batches_per_step: batches of the loader in a step; more than 1 if gradients are accumulated.
        batch_bytes: size of a batch as it is queued; None if unknown.
        samples_bytes: size of all samples on the device, for the resident loader.
        takes_copies: batches are copied to the device, so pinned memory and a side stream may help.
        uses_host_cores: the step computes on the cores that the loader uses too.
        in_dev_shm: workers send their batches through /dev/shm.
        device_bytes: free memory of the device; None if unknown.
        emulated: the title of the emulated accelerator, ``emulated resnet50_a100``; empty on a real device.
        remedy: what else would help if no number of makers feeds the device, one sentence with its gain; empty if nothing is known.
        can_start: the start methods of workers that can be tried.
        in_process: why trials run in this process, one after the other: the step cannot be sent to another one; empty if each has
            a process of its own.
        no_gaps: why the time lost between epochs is not part of the starved share, a clause; empty if it is.
        notes: caveats, one sentence each: what was requested and has no effect.
    """

    current: Candidate
    branches: Sequence[Branch]
    epoch_steps: int | None
    batch_size: int
    batch_bytes: int | None = None
    samples_bytes: int | None = None
    takes_copies: bool = False
    uses_host_cores: bool = True
    in_dev_shm: bool = False
    device_bytes: int | None = None
    emulated: str = ""
    remedy: str = ""
    can_start: Sequence[str] = ()
    in_process: str = ""
    no_gaps: str = ""
    batches_per_step: int = 1
    notes: Sequence[str] = ()

    def own_notes(self, *, shows_samples: bool) -> Sequence[str]:
        """The caveats of a loader and a step of the user's.

        Args:
            shows_samples: the number of samples shows in a batch.
        """
        pins = not self.takes_copies or self.current.pin_memory is not False
        return [*([] if shows_samples else [NO_SIZE]), *([] if pins else [NOT_PINNED])]

    @property
    def device(self) -> str:
        """What the loader feeds, for a sentence: ``device`` or ``emulated resnet50_a100 accelerator``."""
        return f"{self.emulated} accelerator" if self.emulated else "device"


def too_short(epoch_steps: int) -> str:
    """Why an epoch cannot be measured, a clause."""
    return f"an epoch has {epoch_steps} steps, and at least {LEAST_STEPS} are needed to measure"


def smaller_batch(samples: int) -> int:
    """The batch size with which an epoch of these samples has twice the steps that are needed, since its last batch may be smaller; 0 if there
    are too few samples."""
    return samples // (2 * LEAST_STEPS)


class Engine(Protocol):
    """Runs trials."""

    def facts(self) -> Facts:
        """What is known before the first trial.

        Raises:
            UserError: nothing can be tuned, with the reason and what to type.
        """

    def refuses(self, branch: Branch) -> str:
        """Why a branch cannot be used: a package is missing, its work differs from the current loader's; empty if it can. May
        take seconds."""

    def run(self, trial: Trial) -> Measured:
        """Runs a trial in a fresh process, if possible.

        Raises:
            TrialFailed: it died, or could not be measured.
            KeyboardInterrupt: nothing is left of it.
        """

    def close(self) -> None:
        """Ends everything that trials share."""

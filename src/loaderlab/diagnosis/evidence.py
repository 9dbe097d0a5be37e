"""What a verdict is made of and made into: the figures, the set-up, the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from loaderlab.meter.series import Change

FED, PARTLY, STARVED, INCONCLUSIVE = "fed", "partly starved", "starved", "inconclusive"
PARTLY_FROM_PCT, STARVED_FROM_PCT = 5.0, 20.0
LEAST_STEPS = 15  # measured steps of a run, under which nothing is claimed
POTENTIAL_X = 1.1  # ceiling / rate above which NVIDIA calls the input a potential bottleneck
CLOCKS_PCT = 5.0  # by which the two clocks of one window may differ
TOLERANCE = 0.1  # between figures taken one after the other: rate, ceiling, contended ceiling
QUEUING = 0.8  # of the device's time for a step, from which the host that queues it is what bounds it
CROWDED_PCT = 60.0  # of the cores in use, from which processes are in each other's way
WORTH_X = 1.05  # an advice that gains less is not given

STORAGE, DECODE, PYTHON = "storage", "CPU decode/transform", "collation or Python"
DEVICE_DECODE, COPY, INTERFERENCE = "device decode/transform", "host-to-device copy", "interference"
COMPUTE, LAUNCH, EPOCH_GAP, LOADER = "device compute", "host launch overhead", "epoch gap", "loader"


@dataclass(frozen=True)
class Evidence:
    """What was measured. None: could not be, or was not asked for. Shares are percent of the window, rates samples/s.
    Where the starved share changed on the way, all of it is of the steps since then.

    Attributes:
        num_steps: measured.
        starved_pct, starved_interval: dry for want of data, and the 95 % interval of that share.
        delivery_pct: the part of it in which the batch was in hand and not yet usable.
        gap_pct: of the loop without its very first batch, lost between epochs.
        change: of the starved share; its index is a step of the run.
        rate, ceiling, loader_alone, contended: of the run; of resident batches; of the loader with nobody training; of
            resident batches while the loader runs. The intervals are 95 %.
        loader_cores: cores that the loader kept busy when it ran alone.
        stages: seconds per sample that preparing samples (``prepare``) and putting them together (``collate``) take.
        drained_pct: of the steps, those before which the device had finished all its work (CUDA).
        clocks_pct: by which the host's and the device's clock differ over the window (CUDA).
        phases_ms: mean length of each phase of a step.
        idle_pct: device idle for whatever cause; copy_pct: of a trace, only copies running.
        cold, warm: rates with the files out of the kernel's cache, and in it.
        cpu_pct: processor time of the run, of the cores that may be used.
        least_steps: under which nothing is claimed.
    """

    num_steps: int
    wait_pct: float
    starved_pct: float
    starved_interval: tuple[float, float] | None = None
    delivery_pct: float = 0.0
    gap_pct: float | None = None
    change: Change | None = None
    rate: float | None = None
    rate_interval: tuple[float, float] | None = None
    ceiling: float | None = None
    ceiling_interval: tuple[float, float] | None = None
    loader_alone: float | None = None
    contended: float | None = None
    loader_cores: float | None = None
    stages: Mapping[str, float] | None = None
    drained_pct: float | None = None
    clocks_pct: float | None = None
    phases_ms: Mapping[str, float] = field(default_factory=dict)
    idle_pct: float | None = None
    copy_pct: float = 0.0
    cold: float | None = None
    warm: float | None = None
    cpu_pct: float | None = None
    least_steps: int = LEAST_STEPS

    @property
    def headroom(self) -> float | None:
        """Ceiling / rate: the most that a perfect loader could give."""
        return self.ceiling / self.rate if self.ceiling and self.rate else None


@dataclass(frozen=True)
class Setup:
    """What the run was made of, as far as advice depends on it.

    Attributes:
        loader: the choice; `settings`: what is in force in it.
        parallel: batches that it prepares at the same time; ahead: whether it works ahead of the step at all.
        cores: that the process may use; threads: of torch.
        batch_size: 0 where nobody knows it.
        at_hand: the samples are in memory and could stay on the device as they are.
        most_workers: that this data allows; None: any number.
    """

    loader: str
    settings: Mapping[str, object]
    parallel: int
    ahead: bool
    cores: int
    threads: int
    device_type: str
    batch_size: int
    precision: str = "fp32"
    takes_bf16: bool = False
    in_memory: bool = False
    at_hand: bool = False
    image_files: bool = False
    normalized_by_loader: bool = False
    compiled: bool = False
    most_workers: int | None = None


@dataclass(frozen=True)
class Advice:
    """Something to try.

    Attributes:
        override: to type; empty where no setting does it.
        gain_x: rate to expect / rate of the run; with `at_most` a bound; None where nobody knows.
    """

    text: str
    override: str = ""
    gain_x: float | None = None
    at_most: bool = True

    def __str__(self) -> str:
        gain = ""
        if self.gain_x is not None:
            gain = f" ({'at most' if self.at_most else 'expect about'} {self.gain_x:.2f}x)"
        return f"{self.override}: {self.text}{gain}" if self.override else f"{self.text}{gain}"


@dataclass(frozen=True)
class Verdict:
    """The answer.

    Attributes:
        grade: fed, partly starved, starved or inconclusive.
        bottleneck: None where it is not known.
        headroom_x: the most that a perfect loader could give; by the ceiling, else by the starved share alone.
        because: the evidence, and why it is inconclusive where it is.
        advice: best first.
    """

    grade: str
    bottleneck: str | None
    headroom_x: float | None
    because: str
    advice: tuple[Advice, ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.grade}: {self.because}."]
        if self.bottleneck:
            parts.append(f"Bottleneck: {self.bottleneck}.")
        if self.advice:
            first = self.advice[0]
            parts.append(f"Try {first}." if first.override else f"To do: {first}.")
        return " ".join(parts)


def expected_rate(e: Evidence, setup: Setup) -> float | None:
    """Samples/s to expect of loader and step that do not disturb each other: the slower of both where the loader works
    ahead; one after the other where it does not. On CUDA the step is queued in the time of its host part, within which
    nothing is known of the device: the ceiling bounds it."""
    if e.ceiling is None or e.loader_alone is None:
        return None
    if setup.ahead:
        return min(e.ceiling, e.loader_alone)
    if setup.device_type != "cuda":
        return 1 / (1 / e.ceiling + 1 / e.loader_alone)
    host_ms = sum(value for name, value in e.phases_ms.items() if name.startswith("host_") and name != "host_wait")
    return min(e.ceiling, 1 / (1 / e.loader_alone + host_ms / 1e3 / setup.batch_size))

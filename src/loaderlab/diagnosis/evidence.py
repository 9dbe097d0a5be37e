"""The input of a verdict: thresholds, Evidence (what was measured), Setup (how the loop was set up), Advice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from loaderlab.device.capabilities import DeviceCapabilities
from loaderlab.loaders.capabilities import LoaderCapabilities
from loaderlab.meter.series import Change

FED, PARTLY, STARVED, INCONCLUSIVE = "fed", "partly starved", "starved", "inconclusive"
PARTLY_FROM_PCT, STARVED_FROM_PCT = 5.0, 20.0
LEAST_STEPS = 15  # measured steps of a run, under which nothing is claimed
POTENTIAL_X = 1.1  # ceiling / rate above which NVIDIA calls the input a potential bottleneck
CLOCKS_PCT = 5.0  # by which the two clocks of one window may differ
TOLERANCE = 0.1  # between figures taken one after the other: rate, ceiling, contended ceiling
QUEUING = 0.8  # of the device's time for a step, from which the host that queues it is what bounds it
CROWDED_PCT = 60.0  # of the cores in use, from which processes are in each other's way
READS_FROM_MIB_PER_S = 1.0  # of the disk, from which a run reads files; less is what programs read on the side
WORTH_X = 1.05  # an advice that gains less is not given

STORAGE, DECODE, PYTHON = "storage", "CPU decode/transform", "collation or Python"
DEVICE_DECODE, COPY, INTERFERENCE = "device decode/transform", "host-to-device copy", "interference"
COMPUTE, LAUNCH, EPOCH_GAP, LOADER = "device compute", "host launch overhead", "epoch gap", "loader"
HAND_OVER, JITTER, EPOCH_START = "batch hand-over", "uneven batches", "start of each epoch"


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
        typical_share: starved time of the median step / of the mean step, at most 1: about 1 if every step waits alike.
        early_share: share of the starved time that lies in the first steps of epochs, while the queue fills; None if those
            are most of the steps.
        read_mib_per_s: read from the disk.
        ceiling_by_threads: the ceiling with other numbers of torch's threads.
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
    typical_share: float | None = None
    early_share: float | None = None
    read_mib_per_s: float | None = None
    ceiling_by_threads: Mapping[int, float] = field(default_factory=dict)
    least_steps: int = LEAST_STEPS

    @property
    def headroom(self) -> float | None:
        """Ceiling / rate: the most that a perfect loader could give."""
        return self.ceiling / self.rate if self.ceiling and self.rate else None


@dataclass(frozen=True)
class Setup:
    """How the loop was set up, as far as the verdict and the advice depend on it.

    Attributes:
        loader, device: what they are able to do.
        cores: that the process may use; threads: of torch.
        batch_size: 0 if it is not known.
        in_memory: the samples are in host memory; at_hand: and need no work on each, so they could stay on the device.
        image_files: the samples are encoded images.
        normalized_by_loader: the loader delivers normalised floats instead of bytes.
        most_makers: that this data allows; None: any number.
        auto_threads: torch's threads are those that the makers leave; otherwise their number is fixed.
    """

    loader: LoaderCapabilities
    device: DeviceCapabilities
    cores: int
    threads: int
    batch_size: int
    precision: str = "fp32"
    in_memory: bool = False
    at_hand: bool = False
    image_files: bool = False
    normalized_by_loader: bool = False
    compiled: bool = False
    most_makers: int | None = None
    auto_threads: bool = False

    def threads_with(self, num_makers: int) -> int:
        """Torch's threads if there were so many makers."""
        return max(1, self.cores - num_makers) if self.auto_threads else self.threads


@dataclass(frozen=True)
class Advice:
    """Something to try.

    Attributes:
        text: what it does.
        setting, value: the setting to change and its new value; empty if no setting does it.
        gain_x: rate to expect / rate of the run; an upper bound if `at_most`; None if it is not known.
    """

    text: str
    setting: str = ""
    value: str | int | bool = ""
    gain_x: float | None = None
    at_most: bool = True

    def sentence(self, how: str) -> str:
        """``how`` to do it in the terms of the program at hand, the text, and the gain to expect."""
        gain = ""
        if self.gain_x is not None:
            gain = f" ({'at most' if self.at_most else 'expect about'} {self.gain_x:.2f}x)"
        return f"{how}: {self.text}{gain}" if how else f"{self.text}{gain}"


def as_override(advice: Advice) -> str:
    """The advice as an override of this program's settings: ``loader.num_workers=4``; empty if no setting does it."""
    if not advice.setting:
        return ""
    value = str(advice.value).lower() if isinstance(advice.value, bool) else advice.value
    return f"{advice.setting}={value}"


def expected_rate(e: Evidence, setup: Setup) -> float | None:
    """Samples/s to expect of loader and step that do not disturb each other: the slower of both if the loader works
    ahead; one after the other if it does not. A step that is queued on a device takes the host its host part only, within
    which nothing is known of the device: the ceiling bounds it."""
    if e.ceiling is None or e.loader_alone is None:
        return None
    if setup.loader.works_ahead:
        return min(e.ceiling, e.loader_alone)
    if not setup.device.asynchronous:
        return 1 / (1 / e.ceiling + 1 / e.loader_alone)
    host_ms = sum(value for name, value in e.phases_ms.items() if name.startswith("host_") and name != "host_wait")
    return min(e.ceiling, 1 / (1 / e.loader_alone + host_ms / 1e3 / setup.batch_size))

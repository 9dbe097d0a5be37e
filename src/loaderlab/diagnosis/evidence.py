"""The input of a verdict: thresholds, Evidence (measured values), Setup (the loop's configuration), RequestedSpeed, Advice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from loaderlab.device.capabilities import DeviceCapabilities
from loaderlab.lines.shares import SlowLines
from loaderlab.loaders.capabilities import LoaderCapabilities
from loaderlab.meter.series import Change

FED, PARTLY, STARVED, INCONCLUSIVE = "fed", "partly starved", "starved", "inconclusive"
PARTLY_FROM_PCT, STARVED_FROM_PCT = 5.0, 20.0
LEAST_STEPS = 15  # measured steps that a verdict on a run needs
POTENTIAL_X = 1.1  # ceiling / rate above which NVIDIA calls the input a potential bottleneck
BOTTLENECK_X = 1.5  # the same ratio from which NVIDIA calls it a bottleneck
CLOCKS_PCT = 5.0  # by which the two clocks of one window may differ
TOLERANCE = 0.1  # allowed difference of rates measured one after the other: run, ceiling, contended ceiling
QUEUING = 0.8  # host time / device time of a step, from which the host's launches bound the step
CROWDED_PCT = 60.0  # share of the cores in use, from which processes slow each other down
READS_FROM_MIB_PER_S = 1.0  # disk rate from which a run reads its files from the disk; programs cause less in passing
WORTH_X = 1.05  # advice with a smaller gain is not given

STORAGE, DECODE, PYTHON = "storage", "CPU decode/transform", "collation or Python"
DEVICE_DECODE, COPY, INTERFERENCE = "device decode/transform", "host-to-device copy", "interference"
COMPUTE, LAUNCH, EPOCH_GAP, LOADER = "device compute", "host launch overhead", "epoch gap", "loader"
HAND_OVER, JITTER, EPOCH_START = "batch hand-over", "uneven batches", "start of each epoch"


@dataclass(frozen=True)
class Evidence:
    """The measured values. None: not measurable or not requested. Shares are percent of the window, rates samples/s.
    If the starved share changed during the run, all values except ``whole_rate`` cover only the steps after the
    change.

    Attributes:
        num_steps: number of measured steps.
        wait_pct: share of the window that the host spent waiting for batches.
        starved_pct, starved_interval: share of the window in which the device was starved of data, and its 95 % CI.
        delivery_pct: the part of the starved share in which the host had the batch but the device could not use it yet.
        gap_pct: share of the loop that is lost between epochs; the first batch of all is left out.
        change: of the starved share; its index is a step of the run.
        rate, ceiling, loader_alone, contended: rate of the run; of batches that are already on the device; of the loader
            without training; of batches on the device while the loader runs. The intervals are 95 % CIs.
        whole_rate: rate of the run over the whole window, if the starved share changed.
        loader_cores: cores that the loader kept busy when it ran alone.
        stages: seconds per sample for preparing samples (``prepare``) and for putting batches together (``collate``).
        drained_pct: share of the steps before which the device had finished all its work (CUDA).
        clocks_pct: difference between the host's and the device's clock over the window (CUDA).
        phases_ms: mean length of each phase of a step.
        idle_pct: share in which the device was idle for any reason; copy_pct: in a trace, share with only copies running.
        cold, warm: rates with a cold and with a warm file cache of the kernel.
        cpu_pct: CPU time of the run, as a share of the cores that it may use.
        typical_share: starved time of the median step / of the mean step, at most 1: about 1 if all steps wait equally long.
        late_steps: waits up to this length, in steps that do not wait, make up nine tenths of the starved time; None if no step
            was starved.
        early_share: share of the starved time in the first steps of epochs, while the queue fills; None if those are most
            of the steps.
        read_mib_per_s: read from the disk.
        ceiling_by_threads: the ceiling with other numbers of torch threads.
        least_steps: measured steps that a verdict needs.
        lines: how a worker spends its time, from a profile.
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
    whole_rate: float | None = None
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
    late_steps: float | None = None
    early_share: float | None = None
    read_mib_per_s: float | None = None
    ceiling_by_threads: Mapping[int, float] = field(default_factory=dict)
    least_steps: int = LEAST_STEPS
    lines: SlowLines | None = None

    @property
    def headroom(self) -> float | None:
        """Ceiling / rate: the most that a perfect loader could give."""
        return self.ceiling / self.rate if self.ceiling and self.rate else None


@dataclass(frozen=True)
class RequestedSpeed:
    """The speed of an emulated accelerator.

    Attributes:
        title: ``emulated resnet50_a100``.
        rate: samples/s that it takes if it never waits.
        host_ms: CPU time of the training process to queue one step, ms.
        copy_ms: time to copy a batch to it, ms; 0 if its batches need no copy.
        min_utilization: rate / requested rate from which MLPerf Storage's rule counts it as fed.
        is_mlperf: the speed and the threshold are MLPerf Storage's.
    """

    title: str
    rate: float
    host_ms: float
    min_utilization: float
    is_mlperf: bool
    copy_ms: float = 0.0


@dataclass(frozen=True)
class Setup:
    """The part of a loop's configuration that the verdict and the advice depend on.

    Attributes:
        loader, device: their capabilities.
        cores: number of cores that the process may use.
        threads: number of torch threads.
        batch_size: 0 if it is not known.
        in_memory: the samples are in host memory.
        fits_on_device: the samples are in host memory and need no work per sample, so they could stay on the device.
        image_files: the samples are encoded images.
        normalized_by_loader: the loader delivers normalised floats instead of bytes.
        max_makers: the most loader workers or threads that this data allows; None: any number.
        auto_threads: torch uses the cores that the loader leaves; otherwise its number of threads is fixed.
        accelerator: the speed of the emulated accelerator; None on a real device.
    """

    loader: LoaderCapabilities
    device: DeviceCapabilities
    cores: int
    threads: int
    batch_size: int
    precision: str = "fp32"
    in_memory: bool = False
    fits_on_device: bool = False
    image_files: bool = False
    normalized_by_loader: bool = False
    compiled: bool = False
    max_makers: int | None = None
    auto_threads: bool = False
    accelerator: RequestedSpeed | None = None

    def threads_with(self, num_makers: int) -> int:
        """Number of torch threads with this many loader workers or threads."""
        return max(1, self.cores - num_makers) if self.auto_threads else self.threads


@dataclass(frozen=True)
class Advice:
    """Something to try.

    Attributes:
        text: its effect or its reason.
        setting, value: the setting to change and its new value; empty if no setting does it.
        gain_x: expected rate / rate of the run; an upper bound if `at_most`; None if it is not known.
    """

    text: str
    setting: str = ""
    value: str | int | bool = ""
    gain_x: float | None = None
    at_most: bool = True

    def sentence(self, how: str) -> str:
        """The advice in one sentence, with its expected gain.

        Args:
            how: how to follow it in the measured program; empty if there is nothing to type.
        """
        gain = ""
        if self.gain_x is not None:
            gain = f" ({'gain at most' if self.at_most else 'expected gain about'} {self.gain_x:.2f}x)"
        return f"{how}: {self.text}{gain}" if how else f"{self.text}{gain}"


def as_override(advice: Advice) -> str:
    """The advice as an override of this program's settings: ``loader.num_workers=4``; empty if no setting does it."""
    if not advice.setting:
        return ""
    value = str(advice.value).lower() if isinstance(advice.value, bool) else advice.value
    return f"{advice.setting}={value}"


def core_s_per_sample(e: Evidence, setup: Setup) -> float | None:
    """CPU seconds that a sample costs the host: the loader's, and of an emulated accelerator those that queue its step. None if the
    loader was not measured alone."""
    if e.loader_cores is None or not e.loader_alone:
        return None
    speed, queuing_s = setup.accelerator, 0.0
    if speed is not None and setup.batch_size:
        queuing_s = speed.host_ms / 1e3 / setup.batch_size
    return e.loader_cores / e.loader_alone + queuing_s


def expected_rate(e: Evidence, setup: Setup) -> float | None:
    """Expected samples/s if loader and step do not slow each other down. If the loader works ahead, that is the slower of
    the two rates; otherwise they run one after the other. On an asynchronous device a step costs the host only the time to
    queue it, and the ceiling bounds the rate."""
    if e.ceiling is None or e.loader_alone is None:
        return None
    if setup.loader.works_ahead:
        return min(e.ceiling, e.loader_alone)
    if not setup.device.asynchronous:
        return 1 / (1 / e.ceiling + 1 / e.loader_alone)
    host_ms = sum(value for name, value in e.phases_ms.items() if name.startswith("host_") and name != "host_wait")
    return min(e.ceiling, 1 / (1 / e.loader_alone + host_ms / 1e3 / setup.batch_size))

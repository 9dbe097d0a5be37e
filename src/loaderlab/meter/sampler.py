"""The GPU's utilization, power and clocks during training: NVML samples, taken by another process, and their metrics."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from loaderlab import metrics

SCRIPT = Path(__file__).with_name("nvml.py")
PATIENCE_S = 2.0  # SIGTERM does not end a process that waits for a driver that does not answer
# Reasons for which the GPU lowers its clock (nvml.h, nvmlClocksEventReason*): software power cap 0x4, hardware slowdown
# 0x8, software and hardware thermal slowdown 0x20 and 0x40, power brake 0x80. The other bits (idle, application clocks,
# sync boost, display clocks) are settings or idleness.
SLOWED = 0x4 | 0x8 | 0x20 | 0x40 | 0x80
LEAST_COVERED = 0.9  # share of the windows' time that the samples must span for an energy result
MEANS = {
    metrics.DEVICE_PCT: ("utilization_pct", 1.0),
    metrics.POWER_W: ("power_mw", 1e-3),
    metrics.SM_CLOCK_MHZ: ("sm_clock_mhz", 1.0),
    metrics.MEMORY_CLOCK_MHZ: ("memory_clock_mhz", 1.0),
}
MAXIMA = {
    metrics.SM_CLOCK_MAX_MHZ: ("sm_clock_max_mhz", 1.0),
    metrics.DEVICE_TEMPERATURE_C: ("temperature_c", 1.0),
    metrics.DEVICE_MEMORY_MIB: ("memory_used_bytes", 2.0**-20),
}
FLOAT = npt.NDArray[np.float64]
INT = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DeviceSample:
    """One NVML sample; None for a value that the GPU or its driver does not report.

    Attributes:
        at_ns: time of the sample, on the clock of `time.perf_counter_ns`.
        utilization_pct: share of NVML's last period (1/6 s to 1 s) in which any kernel ran.
        energy_mj: of the whole board since the driver was loaded.
        throttle_reasons: NVML's bit mask of why the clock is lowered.
        memory_used_bytes: by all processes and the driver.
        pids: of the processes with a compute context, in the host's numbering.
    """

    at_ns: int
    energy_mj: int | None = None
    power_mw: int | None = None
    utilization_pct: int | None = None
    memory_utilization_pct: int | None = None
    sm_clock_mhz: int | None = None
    sm_clock_max_mhz: int | None = None
    memory_clock_mhz: int | None = None
    temperature_c: int | None = None
    throttle_reasons: int | None = None
    memory_used_bytes: int | None = None
    pids: tuple[int, ...] | None = None


class DeviceSampler:
    """A process that samples one GPU until `stop` or `close`; it ends by itself when this process has ended.

    It starts in the background in about 0.1 s and writes about 90 bytes per sample (3 MB per hour) to an unnamed file.
    Without NVML or a GPU there are no samples, and `problem` says why after `stop`.

    Args:
        uuid: `Device.nvml_uuid`.
        interval_s: between two samples.
    """

    def __init__(self, uuid: str, interval_s: float = 0.1) -> None:
        self.problem: str | None = None
        self._samples: list[DeviceSample] = []
        self._closed = False
        # files do not fill up as pipes do; unnamed files leave nothing behind, however this process ends
        self._lines: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by _release
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        # -P keeps the script's folder off the path: its profile.py would hide the standard library's
        command = [sys.executable, "-P", str(SCRIPT), uuid, str(interval_s), str(os.getpid())]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._lines, stderr=self._errors)

    @property
    def pid(self) -> int:
        """Pid of the sampling process, whose CPU time must not be counted as the loader's."""
        return self._process.pid

    def stop(self) -> list[DeviceSample]:
        """Takes a last sample, ends the process and returns all samples in order of time.

        A second call returns the same samples; after `close` there are none.
        """
        if not self._closed:
            self._end()
            self._samples = _parse(_content(self._lines))
            if self._process.returncode not in (0, -signal.SIGTERM):  # SIGTERM: it was ended while still starting
                errors = _content(self._errors).splitlines()
                self.problem = errors[-1] if errors else f"the sampling process ended with {self._process.returncode}"
            self._release()
        return self._samples

    def close(self) -> None:
        """Ends the process and discards its samples; a second call does nothing."""
        if not self._closed:
            self._end()
            self._release()

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):  # stuck inside the driver: SIGKILL may not end it at once
                self._process.wait(PATIENCE_S)

    def _release(self) -> None:
        self._lines.close()
        self._errors.close()
        self._closed = True

    def __enter__(self) -> DeviceSampler:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _parse(text: str) -> list[DeviceSample]:
    """The samples that `loaderlab.meter.nvml` wrote; an incomplete last line is left out."""
    header, *rows = text.split("\n")[:-1] or [""]
    names = header.split(",")
    samples = []
    for row in rows:
        values = {name: value for name, value in zip(names, row.split(","), strict=True) if value != "-"}
        pids = values.pop("pids", None)
        listed = None if pids is None else tuple(int(pid) for pid in pids.split())
        samples.append(DeviceSample(pids=listed, **{name: int(value) for name, value in values.items()}))
    return samples


def device_figures(
    samples: Sequence[DeviceSample], spans_ns: Sequence[tuple[int, int]], num_samples: int, own_pids: Collection[int]
) -> dict[str, float]:
    """The metrics of the samples inside the measured windows. Pure.

    Args:
        samples: in order of time; those outside the windows are used only for the energy at the windows' edges.
        spans_ns: start and end of each measured window, on the clock of `time.perf_counter_ns`, in order, not
            overlapping.
        num_samples: training samples of these windows.
        own_pids: of the run's processes; any other process that computes on the GPU is foreign.

    Returns:
        Metric name to value. A metric is absent if its query was not answered or the answer cannot be used: foreign
        processes if NVML's pids differ from ours (in a container), energy if less than 90 % of the windows was sampled.
        Empty with fewer than two samples.
    """
    inside = _inside(samples, spans_ns)
    if len(inside) < 2:
        return {}
    figures: dict[str, float] = {}
    for name, (field, unit) in MEANS.items():
        if values := _column(inside, field):
            figures[name] = unit * sum(values) / len(values)
    for name, (field, unit) in MAXIMA.items():
        if values := _column(inside, field):
            figures[name] = unit * max(values)
    if reasons := _column(inside, "throttle_reasons"):
        figures[metrics.THROTTLED_PCT] = 100 * sum(bool(mask & SLOWED) for mask in reasons) / len(reasons)
    listed = [set(sample.pids) for sample in inside if sample.pids is not None]
    if any(pids & set(own_pids) for pids in listed):
        figures[metrics.FOREIGN_PROCESSES] = float(max(len(pids - set(own_pids)) for pids in listed))
    if num_samples > 0 and (joules := _joules(samples, spans_ns)):
        figures[metrics.JOULES_PER_SAMPLE] = joules / num_samples
    return figures


def _inside(samples: Sequence[DeviceSample], spans_ns: Sequence[tuple[int, int]]) -> list[DeviceSample]:
    if not spans_ns:
        return []
    starts, stops = np.array(spans_ns, np.int64).T
    times = np.array([sample.at_ns for sample in samples], np.int64)
    window = np.searchsorted(starts, times, side="right") - 1  # the last window that began before the sample
    kept = (window >= 0) & (times <= stops[window])
    return [sample for sample, keep in zip(samples, kept, strict=True) if keep]


def _column(samples: Sequence[DeviceSample], name: str) -> list[int]:
    return [value for sample in samples if (value := getattr(sample, name)) is not None]


def _joules(samples: Sequence[DeviceSample], spans_ns: Sequence[tuple[int, int]]) -> float | None:
    """Energy of the windows from the board's counter or, if there is none or it does not change, from integrated power.

    Time before the first sample or after the last is assumed to use the same mean power.
    """
    origin = samples[0].at_ns  # subtracted first: a float has too few digits for nanoseconds after a long uptime
    edges = (np.array(spans_ns, np.int64) - origin) / 1e9
    for field, to_curve in (("energy_mj", _counted), ("power_mw", _integrated)):
        known = [sample for sample in samples if getattr(sample, field) is not None]
        if len(known) < 2:
            continue
        at_s = (np.array([sample.at_ns for sample in known], np.int64) - origin) / 1e9
        covered = np.diff(np.clip(edges, at_s[0], at_s[-1])).sum() / np.diff(edges).sum()
        used = float(np.diff(np.interp(edges, at_s, to_curve(at_s, np.array(_column(known, field))))).sum())
        if covered >= LEAST_COVERED and used > 0:
            return used / float(covered)
    return None


def _counted(_at_s: FLOAT, energy_mj: INT) -> FLOAT:
    curve: FLOAT = (energy_mj - energy_mj[0]) / 1e3
    return curve


def _integrated(at_s: FLOAT, power_mw: INT) -> FLOAT:
    """Energy from the first sample to each, J."""
    curve = np.zeros(len(at_s))
    curve[1:] = np.cumsum((power_mw[1:] + power_mw[:-1]) / 2e3 * np.diff(at_s))
    return curve

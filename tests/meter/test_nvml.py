"""The real sampling process on a fake NVML, and the arithmetic of its metrics on hand-written samples."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from loaderlab.device.cuda import Cuda
from loaderlab.meter.sampler import SCRIPT, DeviceSample, DeviceSampler, device_figures

UUID = "3b2d7b4e-0000-4000-8000-00c0ffee0001"
FAKE = """
import os
class NVMLError(Exception): pass
class NVMLError_NotSupported(NVMLError): pass
NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU, NVML_DEVICE_MIG_ENABLE = 1, 2, 0, 1
class Answer:
    gpu, memory, used = 87, 41, 3 << 30
    def __init__(self, pid=0): self.pid = pid
energy = 5_000_000
def refused(*_): raise NVMLError_NotSupported("Not Supported")
def nvmlInit(): pass
def nvmlDeviceGetHandleByUUID(uuid):
    if uuid != "GPU-3b2d7b4e-0000-4000-8000-00c0ffee0001": raise NVMLError(f"no {uuid}")
    return uuid
def nvmlDeviceGetTotalEnergyConsumption(gpu):
    global energy
    energy += 30_000
    return energy
nvmlDeviceGetPowerUsage = lambda gpu: 312_345
nvmlDeviceGetUtilizationRates = nvmlDeviceGetMemoryInfo = lambda gpu: Answer()
nvmlDeviceGetClockInfo = lambda gpu, kind: {1: 1755, 2: 2619}[kind]
nvmlDeviceGetMaxClockInfo = lambda gpu, kind: 1980
nvmlDeviceGetTemperature = lambda gpu, sensor: 54
nvmlDeviceGetCurrentClocksThrottleReasons = lambda gpu: 4
nvmlDeviceGetComputeRunningProcesses = lambda gpu: [Answer(os.getppid()), Answer(77)]
nvmlDeviceGetMigMode = refused
"""
PARTITIONED = "the GPU is partitioned (MIG): its power and utilization include other processes"
PART = """
whole_gpu = nvmlDeviceGetHandleByUUID
nvmlDeviceGetHandleByUUID = lambda uuid: uuid if uuid == "MIG-9d3c" else whole_gpu(uuid)
"""
FakeNvml = Callable[..., None]


@pytest.fixture
def fake_nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """A function that makes later processes import a fake pynvml; its argument is code to add to the module."""

    def put(more: str = "") -> None:
        folder = tmp_path / "fake"
        folder.mkdir()
        (folder / "pynvml.py").write_text(FAKE + more)
        monkeypatch.setenv("PYTHONPATH", str(folder))

    return put


@pytest.fixture
def own_temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Checks that a test leaves no child process behind."""
    before = set(psutil.Process().children())
    yield
    assert set(psutil.Process().children()) <= before


def written(sampler: DeviceSampler, least: int = 2, patience_s: float = 10) -> None:
    """Waits until the process has written its header and at least ``least`` samples."""
    give_up = time.monotonic() + patience_s
    while os.pread(sampler._lines.fileno(), 1 << 20, 0).count(b"\n") <= least:
        assert time.monotonic() < give_up, "no samples came"
        time.sleep(0.01)


def test_samples_carry_every_answer(fake_nvml: FakeNvml, own_temp: Path) -> None:
    fake_nvml()
    started = time.perf_counter_ns()
    sampler = DeviceSampler(UUID, interval_s=0.02)
    written(sampler, least=3)
    asked = time.perf_counter_ns()
    samples = sampler.stop()
    assert len(samples) >= 4
    assert samples[0] == DeviceSample(
        at_ns=samples[0].at_ns,
        energy_mj=5_030_000,
        power_mw=312_345,
        utilization_pct=87,
        memory_utilization_pct=41,
        sm_clock_mhz=1755,
        sm_clock_max_mhz=1980,
        memory_clock_mhz=2619,
        temperature_c=54,
        throttle_reasons=4,
        memory_used_bytes=3 << 30,
        pids=(os.getpid(), 77),
    )
    times = [sample.at_ns for sample in samples]
    assert times == sorted(times)
    assert started < times[0] < asked < times[-1] < time.perf_counter_ns(), "the same clock, and a last sample on stop"
    assert times[2] - times[1] >= 20e6
    assert sampler.problem is None
    assert sampler.stop() == samples
    sampler.close()
    assert list(own_temp.iterdir()) == []


def test_an_unsupported_query_is_absent_on_its_own(fake_nvml: FakeNvml) -> None:
    fake_nvml(
        "nvmlDeviceGetTotalEnergyConsumption = nvmlDeviceGetComputeRunningProcesses = refused\n"
        "nvmlDeviceGetUtilizationRates = refused\n"
    )
    with DeviceSampler("GPU-" + UUID, interval_s=0.01) as sampler:
        written(sampler)
        sample = sampler.stop()[0]
    assert (sample.energy_mj, sample.pids, sample.utilization_pct, sample.memory_utilization_pct) == (None,) * 4
    assert (sample.power_mw, sample.memory_used_bytes) == (312_345, 3 << 30)


def test_no_process_on_the_gpu_differs_from_an_unsupported_query(fake_nvml: FakeNvml) -> None:
    fake_nvml("nvmlDeviceGetComputeRunningProcesses = lambda gpu: []")
    with DeviceSampler(UUID, interval_s=0.01) as sampler:
        written(sampler)
        assert sampler.stop()[0].pids == ()


@pytest.mark.parametrize(
    ("more", "uuid", "problem"),
    [
        ("def nvmlInit(): raise NVMLError('Driver Not Loaded')", UUID, "Driver Not Loaded"),
        ("raise ImportError('no such library')", UUID, "no such library"),
        ("", "0", "no GPU-0"),
        ("nvmlDeviceGetMigMode = lambda gpu: [1, 1]", UUID, PARTITIONED),
        (PART, "9d3c", PARTITIONED),  # torch gives the uuid of the part, without a prefix
        (PART, "MIG-9d3c", PARTITIONED),
        (PART, "MIG-GPU-3b2d7b4e/1/0", PARTITIONED),  # the form of drivers before 470
        (PART, "0", "no GPU-0"),
    ],
)
def test_without_nvml_or_gpu_there_are_no_samples(fake_nvml: FakeNvml, more: str, uuid: str, problem: str) -> None:
    fake_nvml(more)
    sampler = DeviceSampler(uuid)
    sampler._process.wait(10)
    assert sampler.stop() == []
    assert problem in str(sampler.problem)


def test_stopped_at_once(fake_nvml: FakeNvml, own_temp: Path) -> None:
    fake_nvml()
    sampler = DeviceSampler(UUID)
    sampler.stop()
    assert sampler.problem is None
    DeviceSampler(UUID).close()
    assert list(own_temp.iterdir()) == []


def test_close_drops_the_samples(fake_nvml: FakeNvml) -> None:
    fake_nvml()
    with DeviceSampler(UUID, interval_s=0.01) as sampler:
        written(sampler)
    assert sampler.stop() == []


def test_ctrl_c_does_not_end_the_sampling_process(fake_nvml: FakeNvml) -> None:
    fake_nvml()
    with DeviceSampler(UUID, interval_s=0.01) as sampler:
        written(sampler)
        os.kill(sampler.pid, signal.SIGINT)
        written(sampler, least=20)
        assert len(sampler.stop()) > 20


def test_a_stuck_driver_does_not_block_stop(fake_nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml("def nvmlDeviceGetTemperature(*_): import time; time.sleep(60)")
    monkeypatch.setattr("loaderlab.meter.sampler.PATIENCE_S", 0.3)
    sampler = DeviceSampler(UUID)
    written(sampler, least=0)
    assert sampler.stop() == []
    assert sampler.problem == "the sampling process ended with -9"


def test_the_sampling_process_ends_with_a_killed_parent(fake_nvml: FakeNvml, tmp_path: Path) -> None:
    fake_nvml()
    code = (
        "import sys, tempfile, time; from loaderlab.meter.sampler import DeviceSampler\n"
        f"tempfile.tempdir = sys.argv[1]; print(DeviceSampler({UUID!r}, 0.02).pid, flush=True); time.sleep(60)"
    )
    folder = tmp_path / "temp"
    folder.mkdir()
    parent = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent, parent.stdout:
        child = psutil.Process(int(parent.stdout.readline()))
        time.sleep(0.2)
        assert child.is_running()
        parent.kill()
    give_up = time.monotonic() + 5
    with suppress(psutil.NoSuchProcess):
        while child.status() != psutil.STATUS_ZOMBIE:  # its new parent may not reap it
            assert time.monotonic() < give_up
            time.sleep(0.02)
    assert list(folder.iterdir()) == []


def test_the_sampling_process_loads_nothing_heavy(fake_nvml: FakeNvml) -> None:
    fake_nvml()
    code = (
        f"import runpy, sys; runpy.run_path({str(SCRIPT)!r})\n"
        "print(sorted({'torch', 'numpy', 'omegaconf', 'psutil', 'loaderlab', 'subprocess'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "[]", done.stderr


SECOND = 1_000_000_000


def at(second: float, **answers: Any) -> DeviceSample:
    return DeviceSample(int(second * SECOND), **answers)


def windows(*stretches: tuple[float, float]) -> list[tuple[int, int]]:
    return [(int(start * SECOND), int(stop * SECOND)) for start, stop in stretches]


def test_means_and_maxima_are_of_the_windows_only() -> None:
    samples = [
        at(0, utilization_pct=1, power_mw=1_000, temperature_c=90, sm_clock_mhz=1, memory_clock_mhz=9),
        at(1, utilization_pct=50, power_mw=100_000, temperature_c=40, sm_clock_mhz=1000, memory_clock_mhz=5),
        at(2, utilization_pct=70, power_mw=200_000, temperature_c=44, sm_clock_mhz=1200, memory_clock_mhz=5),
        at(3, utilization_pct=1, power_mw=1_000, temperature_c=90, sm_clock_mhz=1, memory_clock_mhz=9),
        at(4, utilization_pct=90, power_mw=300_000, temperature_c=42, sm_clock_mhz=1400, memory_clock_mhz=5),
    ]
    assert device_figures(samples, windows((1, 2.5), (3.5, 4)), 0, []) == {
        "device/utilization_pct": 70,
        "device/power_w": pytest.approx(200),
        "device/sm_clock_mhz": 1200,
        "device/memory_clock_mhz": 5,
        "device/temperature_c": 44,
    }


def test_memory_and_clock_limit() -> None:
    samples = [at(t, memory_used_bytes=used << 20, sm_clock_max_mhz=1980) for t, used in ((0, 100), (1, 300), (2, 200))]
    assert device_figures(samples, windows((0, 2)), 1, []) == {
        "device/memory_used_mib": 300,
        "device/sm_clock_max_mhz": 1980,
    }


def test_energy_comes_from_the_counter_at_the_windows_edges() -> None:
    # 100 W until 2 s, then 300 W; the power readings differ and must not be used
    counter = {0: 7_000_000, 1: 7_100_000, 2: 7_200_000, 3: 7_500_000, 4: 7_800_000}
    samples = [at(t, energy_mj=mj, power_mw=1) for t, mj in counter.items()]
    figures = device_figures(samples, windows((0.5, 1.5), (2.5, 3.5)), 8, [])
    assert figures["energy/joules_per_sample"] == pytest.approx((100 + 300) / 8)


@pytest.mark.parametrize("counter", [{}, {"energy_mj": 7}], ids=["no counter", "a counter that stands still"])
def test_energy_without_a_counter_is_integrated_power(counter: dict[str, int]) -> None:
    powers = {0: 100_000, 1: 300_000, 2: 300_000, 3: 100_000}
    samples = [at(t, power_mw=mw, **counter) for t, mw in powers.items()]
    assert device_figures(samples, windows((0, 3)), 7, [])["energy/joules_per_sample"] == pytest.approx(700 / 7)
    gap = device_figures(samples, windows((0, 1), (2, 3)), 4, [])
    assert gap["energy/joules_per_sample"] == pytest.approx((200 + 200) / 4)


def test_energy_of_a_window_whose_edges_were_not_sampled() -> None:
    samples = [at(t / 10, energy_mj=100 * t) for t in range(5, 96)]  # 1 W, from 0.5 s to 9.5 s
    nearly = device_figures(samples, windows((0, 10)), 1, [])
    assert nearly["energy/joules_per_sample"] == pytest.approx(10)
    assert "energy/joules_per_sample" not in device_figures(samples, windows((0, 12)), 1, [])


def test_energy_keeps_its_digits_after_a_year_of_uptime() -> None:
    year = 365 * 86_400
    samples = [DeviceSample(year * SECOND + ms * 1_000_000, energy_mj=10**12 + ms) for ms in range(11)]
    window = [(year * SECOND + 2_500_000, year * SECOND + 7_500_000)]
    assert device_figures(samples, window, 1, [])["energy/joules_per_sample"] == pytest.approx(5e-3, rel=1e-9)


def test_without_training_samples_there_is_no_energy_per_sample() -> None:
    samples = [at(t, energy_mj=1000 * t) for t in range(3)]
    assert device_figures(samples, windows((0, 2)), 0, []) == {}


@pytest.mark.parametrize(
    ("reasons", "share"),
    [
        ([0x0, 0x1, 0x2, 0x10, 0x100], 0),  # none, idle, application clocks, sync boost, display
        ([0x4, 0x8, 0x20, 0x40, 0x80], 100),  # power cap, hardware, software thermal, hardware thermal, power brake
        ([0x0, 0x5, 0x0, 0x0], 25),
    ],
)
def test_throttled_counts_slow_downs_only(reasons: list[int], share: float) -> None:
    samples = [at(t, throttle_reasons=mask) for t, mask in enumerate(reasons)]
    assert device_figures(samples, windows((0, 9)), 1, []) == {"device/throttled_pct": share}


@pytest.mark.parametrize(
    ("pids", "foreign"),
    [
        ([(10,), (10, 11)], {"device/foreign_processes": 0}),
        ([(10, 99), (10, 98, 97), (98,)], {"device/foreign_processes": 2}),
        ([(99, 98), (99,)], {}),  # this process computes there but is not in the list: NVML's pids differ from ours
        ([(), ()], {}),
    ],
)
def test_foreign_processes(pids: list[tuple[int, ...]], foreign: dict[str, float]) -> None:
    samples = [at(t, pids=listed) for t, listed in enumerate(pids)]
    assert device_figures(samples, windows((0, 9)), 1, {10, 11}) == foreign


@pytest.mark.parametrize("stretches", [[], [(0, 0.5)], [(5, 6)]], ids=["no window", "one sample", "none"])
def test_too_few_samples_give_no_metrics(stretches: list[tuple[float, float]]) -> None:
    samples = [at(t, power_mw=1, energy_mj=t) for t in range(3)]
    assert device_figures(samples, windows(*stretches), 1, []) == {}
    assert device_figures([], windows(*stretches), 1, []) == {}


@pytest.mark.gpu
def test_the_metrics_of_a_real_device_agree() -> None:
    device = Cuda(torch.cuda.current_device())
    left = torch.randn(4096, 4096, device=device.torch_device)
    with DeviceSampler(str(torch.cuda.get_device_properties(device.torch_device).uuid)) as sampler:
        written(sampler)
        began = time.perf_counter_ns()
        while time.perf_counter_ns() < began + 2 * SECOND:
            left @ left
            torch.cuda.synchronize(device.torch_device)
        window = (began, time.perf_counter_ns())
        samples = sampler.stop()
    assert sampler.problem is None
    figures = device_figures(samples, [window], 100, {os.getpid()})
    assert figures["device/utilization_pct"] > 0
    assert figures["device/power_w"] > 0
    # 2 s at the mean power, from the counter or from integrated power
    assert figures["energy/joules_per_sample"] == pytest.approx(figures["device/power_w"] * 2 / 100, rel=0.5)
    assert 0 < figures["device/sm_clock_mhz"] <= figures["device/sm_clock_max_mhz"]
    assert figures["device/memory_used_mib"] > 64

"""NVML with GPUs, with queries that fail, and without a driver."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from loaderlab.config import PROJECT
from loaderlab.device import resolve
from loaderlab.system import machine, nvml


class NVMLError(Exception):
    pass


def failing(*_: Any) -> Any:
    raise NVMLError


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Installs a fake pynvml with two GPUs. Its functions can be replaced."""

    def install(**functions: Any) -> list[str]:
        calls: list[str] = []
        content = {
            "NVMLError": NVMLError,
            "NVML_TEMPERATURE_GPU": 0,
            "NVML_CLOCK_SM": 1,
            "nvmlInit": lambda: calls.append("init"),
            "nvmlShutdown": lambda: calls.append("shutdown"),
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlDeviceGetHandleByIndex": lambda index: f"gpu{index}",
            "nvmlDeviceGetName": lambda gpu: f"name of {gpu}",
            "nvmlSystemGetDriverVersion": lambda: "570.1",
            "nvmlDeviceGetTemperature": lambda gpu, sensor: {"gpu0": 40, "gpu1": 50}[gpu],
            "nvmlDeviceGetClockInfo": failing,
            "nvmlDeviceGetUtilizationRates": lambda gpu: SimpleNamespace(gpu=7),
            "nvmlDeviceGetComputeRunningProcesses": lambda gpu: [1, 2],
        }
        monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(**content | functions))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        return calls

    return install


def test_the_gpus_come_in_the_drivers_order_and_nvml_is_closed(fake: Callable[..., list[str]]) -> None:
    calls = fake()
    with nvml.gpus() as handles:
        assert handles == ["gpu0", "gpu1"]
        assert nvml.query("gpu1", lambda library, gpu: library.nvmlDeviceGetName(gpu)) == "name of gpu1"
        assert nvml.query("gpu1", lambda library, gpu: library.nvmlDeviceGetClockInfo(gpu, 1)) is None
        assert calls == ["init"]
    assert calls == ["init", "shutdown"]
    with pytest.raises(KeyboardInterrupt), nvml.gpus():
        raise KeyboardInterrupt
    assert calls[-1] == "shutdown"


def test_a_lost_gpu_is_left_out(fake: Callable[..., list[str]]) -> None:
    fake(nvmlDeviceGetHandleByIndex=lambda index: failing() if index == 0 else "gpu1")
    with nvml.gpus() as handles:
        assert handles == ["gpu1"]


@pytest.mark.parametrize("function", ["nvmlInit", "nvmlDeviceGetCount"])
def test_without_a_driver_there_are_no_gpus(fake: Callable[..., list[str]], function: str) -> None:
    fake(**{function: failing})
    with nvml.gpus() as handles:
        assert handles == []
    assert resolve.driver_gpus() is None


def test_values_of_the_gpus_are_part_of_the_machine_state(
    fake: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake()
    monkeypatch.setattr(machine, "LOOK_S", 0.01)
    state = machine.state()
    assert state["machine/gpu_temperature_c"] == 50
    assert state["machine/gpu_processes"] == 4
    assert "machine/gpu_clock_mhz" not in state  # absent, not 0
    assert resolve.driver_gpus() == {"driver": "570.1", "names": ["name of gpu0", "name of gpu1"]}


def test_without_pynvml_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(machine, "LOOK_S", 0.01)
    with nvml.gpus() as handles:
        assert handles == []
    assert resolve.driver_gpus() is None
    assert not {name for name in machine.state() if "gpu" in name}


def test_a_watched_loop_needs_no_pynvml() -> None:
    code = """
import sys
sys.modules["pynvml"] = None
from loaderlab import watch
with watch("cpu", warmup_steps=0) as meter:
    for _ in meter.batches(range(40)):
        meter.step(num_samples=1)
assert meter.figures()["rate/samples_per_s"] > 0
meter.verdict()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr

"""The ladder's last rungs have a precision that the device of the jobs supports, with and without a GPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from loaderlab.config import PROJECT, UserError
from loaderlab.runs import ladder_precision
from loaderlab.system import machine
from tests.conftest import compose


class NVMLError(Exception):
    pass


@pytest.fixture(autouse=True)
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """NVML lists one GPU, which has bf16; the processor has none."""
    library = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: f"gpu{index}",
        nvmlDeviceGetCudaComputeCapability=lambda gpu: (9, 0),
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(machine, "cpu_has_bf16", lambda: False)
    ladder_precision._in_fresh_process.cache_clear()
    yield
    ladder_precision._in_fresh_process.cache_clear()


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, str, str], list[str]]:
    """Replaces the fresh process; the devices that it was started for are in the returned list."""

    def install(code: int, out: str, error: str) -> list[str]:
        devices = []

        def run(command: list[str], input: str, **_: Any) -> SimpleNamespace:
            devices.append(input)
            return SimpleNamespace(returncode=code, stdout=out, stderr=error)

        monkeypatch.setattr(subprocess, "run", run)
        return devices

    return install


def precision_of(rung: str, device: str) -> str:
    return compose(["study=ladder", f"rung={rung}", f"device={device}"]).precision.name


@pytest.mark.parametrize("rung", ["dali", "ceiling"])
def test_a_cpu_ladder_on_a_gpu_machine_keeps_its_last_rungs(rung: str, answers: Any) -> None:
    devices = answers(0, "bf16\n", "")
    assert precision_of(rung, "cpu") == "fp32"  # bf16 would be "not applicable here" on this processor
    assert not devices, "the GPU was queried, although no job uses it"


def test_the_device_of_the_jobs_decides(answers: Any) -> None:
    devices = answers(0, "a line of another library\nfp32\n", "")  # such as a Turing GPU, or none is visible to torch
    assert [precision_of("dali", device) for device in ("auto", "cuda:1", "auto")] == ["fp32"] * 3
    assert devices == ["auto", "cuda:1"], "each device is queried once"


def test_a_failed_query_is_an_error(answers: Any) -> None:
    answers(1, "", "Traceback\nImportError: libcudart.so")
    with pytest.raises(UserError, match=r"device=auto: the device cannot be queried: ImportError: libcudart\.so"):
        ladder_precision.ladder_precision("auto")


def test_without_a_gpu_no_process_is_started(answers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["pynvml"], "nvmlDeviceGetCount", lambda: 0)
    monkeypatch.setattr(machine, "cpu_has_bf16", lambda: True)
    assert not answers(0, "fp32", "")
    assert ladder_precision.ladder_precision("auto") == "bf16"


@pytest.mark.parametrize(("capability", "expected"), [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp32")])
def test_the_process_uses_the_checks_of_the_jobs(
    capability: tuple[int, int], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    capabilities = {"cuda:0": capability, "cuda:1": capability}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capabilities[str(device)])
    assert ladder_precision.precision_on("auto") == ladder_precision.precision_on("cuda:1") == expected
    capabilities["cuda:1"] = (7, 5)
    assert ladder_precision.precision_on("cuda:1") == "fp32"
    assert ladder_precision.precision_on("cpu") == "fp32"
    assert ladder_precision.precision_on("cuda:7") == "fp32"  # the jobs report that it does not exist


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that does not exist")
def test_the_parent_of_a_sweep_imports_no_torch() -> None:
    code = """
import sys
from loaderlab.runs.ladder_precision import ladder_precision
assert ladder_precision("cuda:0") == "fp32", ladder_precision("cuda:0")  # by a real process
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("rung", ["dali", "ceiling"])
@pytest.mark.parametrize(("accelerator", "data"), [("feedforward", "vectors"), ("resnet50_a100", "photos")])
def test_an_emulated_ladder_queries_no_device(rung: str, accelerator: str, data: str, answers: Any) -> None:
    devices = answers(0, "bf16\n", "")
    config = compose(["study=ladder", f"rung={rung}", f"accelerator={accelerator}", f"data={data}"])
    assert (config.precision.name, config.rung) == ("fp32", rung)
    assert not devices


def test_the_rung_bf16_of_an_emulated_ladder_is_not_applicable() -> None:
    from loaderlab.runs.run import _not_applicable

    settings = ["study=ladder", "accelerator=feedforward", "data=vectors"]
    assert _not_applicable(compose([*settings, "rung=bf16"])) == ladder_precision.NO_ARITHMETIC
    assert _not_applicable(compose([*settings, "rung=batched"])) == ""

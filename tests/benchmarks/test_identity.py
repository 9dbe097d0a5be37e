"""Results of two machines are not mixed: each run of a part records its machine, which is checked before anything is measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu_acceptance import __main__ as acceptance
from benchmarks.gpu_acceptance import identity, measured, running
from benchmarks.gpu_acceptance.parts import Part, Setting
from benchmarks.gpu_acceptance.running import State, Turn
from loaderlab.config import UserError
from loaderlab.device.cpu import Cpu
from loaderlab.device.environment import describe

DESCRIPTION: dict[str, Any] = {
    "device": "A GPU 80GB",
    "driver": "580.1",
    "versions": {"torch": "2.11.0"},
    "cuda_of_torch": "13.0",
    "processor": "A CPU",
    "cores_available": 16,
    "host": "one",
    "load_average": [1.0],
}
HERE = identity.identity(DESCRIPTION)


def measure(folder: Path, machine: dict[str, str], part: str = "fed") -> None:
    """Stores a run of a part on a machine."""
    (folder / part).mkdir(parents=True, exist_ok=True)
    turns = [Turn("2026-11-20T10:00:00+00:00", "", "abc", "done", 1.0, 0, 0, machine)]
    running.keep(folder / part / "part.json", State("cpu", [], turns))


def test_another_host_with_the_same_hardware_is_the_same_machine(tmp_path: Path) -> None:
    measure(tmp_path, HERE)
    identity.check(tmp_path, identity.identity({**DESCRIPTION, "host": "two", "load_average": [0.0]}))


@pytest.mark.parametrize(
    ("change", "name", "folder"),
    [
        ({"device": "Another GPU"}, "device", "another-gpu"),
        ({"driver": "590.2"}, "driver", "driver-590-2"),
        ({"versions": {"torch": "2.15.0"}}, "torch", "torch-2-15-0-for-cuda-13-0"),
        ({"cuda_of_torch": "12.6"}, "torch", "torch-2-11-0-for-cuda-12-6"),
        ({"cores_available": 8}, "cores", "cores-8"),
    ],
)
def test_results_of_another_machine_are_refused(change: dict[str, Any], name: str, folder: str, tmp_path: Path) -> None:
    measure(tmp_path, HERE)
    with pytest.raises(UserError) as error:
        identity.check(tmp_path, identity.identity({**DESCRIPTION, **change}))
    assert "fed was measured on A GPU 80GB (driver 580.1, torch 2.11.0 for CUDA 13.0, A CPU, 16 cores), but" in str(
        error.value
    )
    assert f"They differ in: {name}." in str(error.value)
    assert str(error.value).endswith(f"Type: --folder {tmp_path}_{folder}")


def test_results_without_a_machine_are_refused(tmp_path: Path) -> None:
    measure(tmp_path, {})
    with pytest.raises(UserError, match="fed was measured on a machine that was not recorded"):
        identity.check(tmp_path, HERE)


def test_the_environment_is_measured_again_on_another_machine(tmp_path: Path) -> None:
    measure(tmp_path, {}, "environment")
    identity.check(tmp_path, HERE)


def test_each_run_records_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "environment").mkdir()
    (tmp_path / "environment" / "found.json").write_text(json.dumps({"machine": DESCRIPTION}))
    monkeypatch.setattr(Part, "command", lambda *_, **__: [sys.executable, "-c", ""])
    running.run(Setting(tmp_path, trial=True), Part("a_part", "A part"), 1)
    assert identity.machines(tmp_path / "a_part" / "part.json") == [HERE]


def test_a_command_on_another_machine_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The environment of the machine that measured the other parts is kept."""
    measure(tmp_path, HERE)
    (tmp_path / "environment").mkdir()
    (tmp_path / "environment" / "found.json").write_text("{}")
    monkeypatch.setattr(sys, "argv", ["", "--cpu", "--folder", str(tmp_path), "--parts", "overhead"])
    assert acceptance.main() == 1
    output = capsys.readouterr()
    assert f"error: {tmp_path} contains results of another machine: fed was measured on A GPU 80GB" in output.err
    assert "overhead" not in output.out
    assert (tmp_path / "environment" / "found.json").read_text() == "{}"


def test_the_environment_of_this_machine_has_an_identity() -> None:
    machine = identity.identity(describe(Cpu()))
    assert machine["torch"] == torch.__version__.partition("+")[0]
    assert machine["driver"] == "none"
    assert all(machine.values())


def test_the_error_is_the_last_line_of_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measure(tmp_path, HERE)
    assert measured.main("environment", "cpu", str(tmp_path / "environment")) == 1
    assert capsys.readouterr().out.startswith("error: ")

"""The load of a machine, and the abilities of its processor."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from loaderlab.system import machine


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags\t\t: fpu avx2", False),
        ("flags\t\t: fpu avx2 avx512_bf16", True),
        ("Features\t: asimd bf16", True),
        ("", False),
    ],
)
def test_bf16_of_the_processor(flags: str, expected: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{flags}\n")
    assert machine.cpu_has_bf16(tmp_path / "cpuinfo") == expected
    assert not machine.cpu_has_bf16(tmp_path / "nosuch")


@pytest.mark.parametrize(("cores", "counts"), [(1, [0, 1, 2]), (2, [0, 1, 2, 4]), (6, [0, 1, 2, 4, 6, 8])])
def test_worker_counts_exceed_the_cores(cores: int, counts: list[int]) -> None:
    assert machine.worker_counts(cores) == counts


def test_state_is_in_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LOOK_S", 0.01)
    state = machine.state()
    assert 0 <= state["machine/busy_pct"] <= 100
    assert state["machine/load_1min"] >= 0
    assert all(name.startswith("machine/") for name in state)


def test_a_state_that_affects_a_measurement_gives_a_warning() -> None:
    quiet = {"machine/busy_pct": 3.0, "machine/load_1min": 0.1}
    assert list(machine.warnings(quiet)) == []
    busy = {"machine/busy_pct": 60.0, "machine/gpu_processes": 2.0, "machine/gpu_temperature_c": 91.0}
    assert list(machine.warnings(busy)) == [
        "other programs use 60 % of the processor: results will be affected",
        "2 other programs use the GPUs: results will be affected",
        "the temperature is 91 °C: heat may slow down what is measured",
    ]


CACHE = "active_file 300\ninactive_file 200\ntotal_active_file 30\ntotal_inactive_file 20\n"


@pytest.mark.parametrize(
    ("version", "limit", "expected"),
    [(2, "5000", 1500), (2, "max", 10**6), (2, "100", 0), (1, "5000", 1050), (1, str(2**63 - 4096), 10**6)],
)
def test_available_memory_is_bounded_by_the_cgroup(
    version: int, limit: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=10**6))
    folder = tmp_path if version == 2 else tmp_path / "memory"
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    folder.mkdir(exist_ok=True)
    for name, text in zip((*names, "memory.stat"), (limit, "4000", CACHE), strict=True):
        (folder / name).write_text(text, encoding="utf-8")
    assert machine.available_memory(tmp_path) == expected

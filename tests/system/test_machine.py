"""What else goes on on a machine, and what its processor can do."""

from __future__ import annotations

from pathlib import Path

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
def test_worker_counts_reach_beyond_the_cores(cores: int, counts: list[int]) -> None:
    assert machine.worker_counts(cores) == counts


def test_state_is_in_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LOOK_S", 0.01)
    found = machine.state()
    assert 0 <= found["machine/busy_pct"] <= 100
    assert found["machine/load_1min"] >= 0
    assert all(name.startswith("machine/") for name in found)


def test_what_would_spoil_a_measurement_is_told() -> None:
    quiet = {"machine/busy_pct": 3.0, "machine/load_1min": 0.1}
    assert list(machine.warnings(quiet)) == []
    loud = {"machine/busy_pct": 60.0, "machine/gpu_processes": 2.0, "machine/gpu_temperature_c": 91.0}
    told = list(machine.warnings(loud))
    assert [text.split(" ")[0] for text in told] == ["other", "2", "91"]

"""The acceptance run on a GPU, as far as it shows without one: its course, its verdicts, its page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from records import arms

from benchmarks.gpu_acceptance import __main__ as acceptance
from benchmarks.gpu_acceptance import page, targets
from benchmarks.gpu_acceptance.parts import PARTS, Part, Setting
from loaderlab.config import PROJECT
from loaderlab.report.comparison import Comparison, compare

ENVIRONMENT = {
    "machine": {"device": "A GPU 80GB", "cores_available": 16, "versions": {"torch": "2.15.0"}, "host": "not to be told"},
    "gpu": {"sm_clock_mhz": 1980},
    "storage": {"size_mib": 1024, "write_mib_per_s": 900.0, "read_mib_per_s": 2100.0},
}  # fmt: skip
OVERHEAD = {
    "model": "resnet50", "ratio": (1.0004, 0.9995, 1.0012), "step_ms": 40.0,
    "ceiling": {"by_hand": (0.998, 0.99, 1.004), "evaluator": (1.04, 1.03, 1.05)},
}  # fmt: skip


def part(code: str, monkeypatch: pytest.MonkeyPatch) -> Part:
    """One that runs this Python."""
    monkeypatch.setattr(Part, "command", lambda *_: [sys.executable, "-c", code])
    return Part("a_part", "A part")


def fed(shares: dict[str, float]) -> Comparison:
    runs = []
    for loader, share in shares.items():
        runs += arms({loader: [1000.0 + share] * 3}, figures={"starvation/efficiency_pct": share})
    return compare("a sweep", runs)


@pytest.mark.parametrize(
    ("code", "minutes", "status"),
    [("print('said')", 1, "done"), ("raise SystemExit(3)", 1, "failed"), ("import time; time.sleep(60)", 0.03, "cut")],
)
def test_how_a_part_ended_is_kept(
    code: str, minutes: float, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = Setting(tmp_path, dry=True)
    tried = part(code, monkeypatch)
    assert acceptance.run(setting, tried, minutes) == status
    kept = acceptance.state_of(setting, tried)
    assert kept["status"] == status
    assert kept["seconds"] >= 0
    assert kept.get("exit_code") == {"done": 0, "failed": 3, "cut": None}[status]
    assert ("said" in (tmp_path / "a_part" / "output.txt").read_text()) == (status == "done")


def test_what_is_done_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[str] = []

    def run(setting: Setting, chosen: Part, _minutes: float) -> str:
        begun.append(chosen.name)
        (setting.folder / chosen.name).mkdir(parents=True, exist_ok=True)
        status = "failed" if chosen.name == "fed" and begun.count("fed") == 1 else "done"
        (setting.folder / chosen.name / "part.json").write_text(json.dumps({"status": status, "seconds": 1.0}))
        return status

    monkeypatch.setattr(acceptance, "run", run)
    monkeypatch.setattr(sys, "argv", ["", "--cpu", "--folder", str(tmp_path)])
    assert acceptance.main() == 1
    assert "not done: fed. Type the command again" in capsys.readouterr().err
    assert acceptance.main() == 0
    assert begun == [*(chosen.name for chosen in PARTS), "fed"]
    monkeypatch.setattr(sys, "argv", ["", "--cpu", "--folder", str(tmp_path / "new"), "--parts", "workers"])
    assert acceptance.main() == 0  # the others were not asked for
    assert "no page is written without a GPU" in capsys.readouterr().out


def test_without_a_gpu_it_says_what_to_type(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(acceptance, "driver_gpus", lambda: None)
    monkeypatch.setattr(sys, "argv", [""])
    assert acceptance.main() == 1
    assert "--cpu" in capsys.readouterr().err


@pytest.mark.parametrize("dry", [True, False])
def test_every_sweep_is_one_that_can_be_typed(dry: bool, tmp_path: Path) -> None:
    for chosen in (each for each in PARTS if each.overrides):
        command = chosen.command(Setting(tmp_path, dry), again=False)
        names = [text.partition("=")[0] for text in command[4:]]
        assert len(names) == len(set(names))  # Hydra takes no setting twice
        assert f"device={'cpu' if dry else 'cuda'}" in command
        assert chosen.command(Setting(tmp_path, dry), again=True)[4] == "resume=latest"


def test_verdicts_on_the_targets() -> None:
    tests = {
        "tests.test_gpu_truths.test_work_in_flight_is_not_starved[10-9-10]": "passed",
        "tests.test_models.test_precisions_of_a_gpu[bf16]": "failed",
    }
    comparison = fed({"native": 96.4, "dali": 91.0, "resident": 99.0, "replay": 100.0})
    told = {found.what: found for found in targets.targets({"fed": comparison}, OVERHEAD, tests, 16)}
    first = next(iter(told.values()))
    assert first.reached
    # resident has the larger share, and is not fed from files
    assert first.measured == "96.4 % (96.4 to 96.4, n = 3): native, 16 cores"
    reached = {what: found.reached for what, found in told.items()}
    assert reached["the meter costs at most 0.2 % of a ResNet-50 step"]
    assert reached["the ceiling is what a loop by hand reaches, within 2 %"]
    assert reached["the ceiling is what DALI's replay evaluator gives, within 2 %"] is False
    assert reached["every precision is in force as it says"] is False
    assert reached["memory is back at the start after each of 10 jobs"] is None
    assert all(found.reached is None for found in targets.targets({}, None, {}, None))


def test_the_tests_that_targets_name_are_there() -> None:
    written = "".join(path.read_text() for path in (PROJECT / "tests").rglob("test_*.py"))
    assert all(f"def {name}(" in written for _, name in targets.BY_TEST)


def test_outcomes_are_read(tmp_path: Path) -> None:
    (tmp_path / "junit.xml").write_text(
        '<testsuites><testsuite><testcase classname="tests.a" name="one"/>'
        '<testcase classname="tests.a" name="two"><failure message="no"/></testcase>'
        '<testcase classname="tests.a" name="three"><skipped message="needs a CUDA device"/></testcase>'
        '<testcase classname="tests.a" name="four"><error message="at setup"/></testcase></testsuite></testsuites>'
    )
    ended, reasons = page.outcomes(tmp_path / "junit.xml")
    assert ended == {
        "tests.a.one": "passed",
        "tests.a.two": "failed",
        "tests.a.three": "skipped",
        "tests.a.four": "failed",
    }
    assert reasons == {"needs a CUDA device": 1}
    assert page.outcomes(tmp_path / "nosuch.xml") == ({}, {})


def test_the_page_says_what_was_measured_and_what_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states: dict[str, dict[str, Any]] = {chosen.name: {"status": "done", "commit": "abc"} for chosen in PARTS}
    states["workers"] = {}
    states["compiled"] = {"status": "cut", "seconds": 480.0, "commit": "abc"}
    tests = {"tests.a.one": "passed", "tests.a.two": "failed"}
    comparisons = {"fed": fed({"native": 96.4, "dali": 91.0})}
    found = page.Found(states, ENVIRONMENT, OVERHEAD, tests, comparisons=comparisons)
    text = page.compose(found, {"fed": "a-gpu/fed.png"})
    assert text.startswith("# A GPU 80GB\n")
    assert "on commit abc. 3 of 10 targets are reached, 6 not measured, 1 not reached." in text
    assert (
        "| ResNet-50 in bf16 from JPEG files at 95 % of its ceiling or better with the best loader | reached | 96.4 %"
        in text
    )
    assert "`pytest -m gpu`: 1 passed, 1 failed, 0 skipped." in text
    assert "- failed: `tests.a.two`" in text
    assert "[fed.csv](a-gpu/fed.csv)" in text
    assert "## How many workers\n\nNot run." in text
    assert "Cut after 480 s" in text
    assert "| ceiling / DALI's replay evaluator | 1.0400 | 1.0300 to 1.0500 |" in text
    assert "not to be told" not in text
    found.environment = None
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    monkeypatch.setattr(page, "gather", lambda *_: found)
    assert page.conclude(Setting(tmp_path, dry=False), states, list(states)) == 1
    assert list(tmp_path.iterdir()) == []  # nothing is known of the machine

"""The acceptance run on a GPU, as far as it shows without one: its course, its verdicts, its page."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
from filelock import FileLock

from benchmarks.gpu_acceptance import __main__ as acceptance
from benchmarks.gpu_acceptance import criteria, kept, measured, page, running
from benchmarks.gpu_acceptance.kept import Outcome
from benchmarks.gpu_acceptance.parts import PARTS, Part, Setting
from benchmarks.gpu_acceptance.running import State, Turn
from loaderlab.compare.arms import Comparison
from loaderlab.compare.comparison import compare
from loaderlab.config import PROJECT, UserError
from loaderlab.device import resolve
from loaderlab.meter.sampler import DeviceSample
from loaderlab.runs import compare_runs
from loaderlab.tracking.store import Store
from tests.conftest import compose
from tests.records import arms

ENVIRONMENT: dict[str, Any] = {
    "machine": {
        "device": "A GPU 80GB",
        "processor": "A CPU",
        "cores_available": 16,
        "memory_gib": 128.0,
        "versions": {"torch": "2.15.0"},
        "host": "not to be told",
    },
    "load": {
        "tflops": 700.123,
        "sm_clock_mhz": 1700.0,
        "pcie": "generation 5, 16 lanes",
        "held_down": {"software power cap": 40.0},
    },
    "storage": {"size_mib": 1024, "write_mib_per_s": 900.0, "read_mib_per_s": 2100.0},
}
OVERHEAD = {
    "model": "resnet50",
    "ratio": (1.0004, 0.9995, 1.0012),
    "step_ms": 40.0,
    "ceiling": {"by_hand": (0.998, 0.99, 1.004), "evaluator": (1.04, 1.03, 1.05)},
}
HERE = Turn("2026-11-20T10:00:00+00:00", "experiments.train", "abc", "done", 60.0, 0)


def part(code: str, monkeypatch: pytest.MonkeyPatch) -> Part:
    """One that runs this Python."""
    monkeypatch.setattr(Part, "command", lambda *_, **__: [sys.executable, "-c", code])
    return Part("a_part", "A part")


def fed(shares: dict[str, float]) -> Comparison:
    runs = []
    for loader, share in shares.items():
        figures = {"starvation/efficiency_pct": share, "energy/joules_per_sample": share / 100, "device/power_w": 400.0}
        runs += arms({loader: [1000.0 + share] * 3}, figures=figures)
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
    assert running.run(setting, tried, minutes).status == status
    found = running.state_of(setting, tried)
    assert [turn.status for turn in found.turns] == [status]
    assert found.turns[0].exit_code == {"done": 0, "failed": 3, "cut": None}[status]
    assert ("said" in (tmp_path / "a_part" / "output.txt").read_text()) == (status == "done")
    running.run(setting, tried, minutes)
    again = running.state_of(setting, tried)
    assert again.turns[0] == found.turns[0]  # what was known of it is not lost
    assert again.seconds == pytest.approx(sum(turn.seconds or 0 for turn in again.turns))
    assert len(again.turns) == 2


def test_a_part_that_became_another_sweep_begins_anew(tmp_path: Path) -> None:
    first = Part("a_part", "A part", ("loader=native",))
    setting = Setting(tmp_path, dry=False)
    (tmp_path / "a_part").mkdir()
    running.keep(tmp_path / "a_part" / "part.json", State("cuda", first.typed(setting), [HERE]))
    assert running.state_of(setting, first).status == "done"
    assert running.state_of(setting, Part("a_part", "A part", ("loader=dali",))).status == "not run"
    with pytest.raises(UserError, match="run on cuda. Type another folder"):
        running.state_of(Setting(tmp_path, dry=True), first)


def sleeping(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Part:
    """A part that says who it is and then takes its time."""
    return part(
        f"import os, time; open({str(folder / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)", monkeypatch
    )


def begun(folder: Path) -> psutil.Process:
    """The part's process, once there is one."""
    while not ((folder / "pid").exists() and (folder / "pid").read_text()):
        time.sleep(0.02)
    return psutil.Process(int((folder / "pid").read_text()))


def test_a_command_that_is_told_to_end_ends_its_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = sleeping(tmp_path, monkeypatch)
    monkeypatch.setattr(acceptance, "PARTS", [tried])
    theirs: list[psutil.Process] = []

    def tell() -> None:
        theirs.append(begun(tmp_path))
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=tell).start()
    setting = Setting(tmp_path, dry=True)
    assert acceptance.course(setting, ["a_part"], 1, None) == 143
    theirs[0].wait(30)
    assert running.state_of(setting, tried).status == "cut"


def test_a_command_that_is_killed_leaves_nothing_on_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting, tried = Setting(tmp_path, dry=True), sleeping(tmp_path, monkeypatch)
    ours = multiprocessing.get_context("fork").Process(target=running.run, args=(setting, tried, 1))
    ours.start()
    theirs = begun(tmp_path)
    ours.kill()
    ours.join()
    theirs.wait(30)  # not ours to reap: waits for it to be gone
    assert running.state_of(setting, tried).status == "cut"


def test_what_is_done_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[str] = []

    def run(setting: Setting, chosen: Part, _minutes: float) -> State:
        begun.append(chosen.name)
        folder = setting.folder / chosen.name
        folder.mkdir(parents=True, exist_ok=True)
        status = "failed" if chosen.name == "fed" and begun.count("fed") == 1 else "done"
        state = State("cpu", chosen.typed(setting), [Turn("2026-11-20T10:00:00+00:00", "", "abc", status, 1.0, 0)])
        running.keep(folder / "part.json", state)
        if chosen.name == "environment":
            (folder / "found.json").write_text(json.dumps(ENVIRONMENT))
        return state

    monkeypatch.setattr(running, "run", run)
    monkeypatch.setattr(sys, "argv", ["", "--cpu", "--folder", str(tmp_path)])
    assert acceptance.main() == 1
    assert "not done: fed. Type the command again" in capsys.readouterr().err
    assert acceptance.main() == 0
    assert begun == [*(chosen.name for chosen in PARTS), "fed"]
    monkeypatch.setattr(sys, "argv", ["", "--cpu", "--folder", str(tmp_path / "new"), "--parts", "workers"])
    assert acceptance.main() == 0  # the others were not asked for, the machine is always looked at
    assert begun[-2:] == ["environment", "workers"]
    assert "no page is written without a GPU" in capsys.readouterr().out


def test_nothing_is_measured_on_a_machine_that_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Part, "command", lambda *_, **__: [sys.executable, "-c", "raise SystemExit(2)"])
    monkeypatch.setattr(sys, "argv", ["", "--cpu", "--folder", str(tmp_path)])
    assert acceptance.main() == 1
    told = capsys.readouterr()
    assert "nothing is known of the machine" in told.err
    assert "tests" not in told.out


@pytest.mark.parametrize("damaged", ["workers/part.json", "environment/found.json", "mlflow.db"])
def test_what_is_damaged_is_told(
    damaged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setting = Setting(tmp_path, dry=True)
    for chosen in (PARTS[0], PARTS[-1]):
        (tmp_path / chosen.name).mkdir()
        running.keep(tmp_path / chosen.name / "part.json", State("cpu", chosen.typed(setting), [HERE]))
    (tmp_path / "environment" / "found.json").write_text(json.dumps(ENVIRONMENT))
    (tmp_path / damaged).write_text('{"cut sh')
    monkeypatch.setattr(sys, "argv", ["", "--cpu", "--folder", str(tmp_path), "--parts", "workers"])
    assert acceptance.main() == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert str(tmp_path / damaged) in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--minutes 0", "0: must be above 0"),
        ("--name ../x", "../x: must be made of letters"),
        ("--parts nosuch", "invalid choice"),
    ],
)
def test_arguments_that_make_no_sense(
    arguments: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["", *arguments.split()])
    with pytest.raises(SystemExit) as ended:
        acceptance.main()
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["", "--cpu", "--folder", str(tmp_path / "file")])
    assert acceptance.main() == 1
    assert f"error: --folder {tmp_path / 'file'}: cannot be written: File exists" in capsys.readouterr().err


def test_what_does_not_fit_into_the_time_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = part("import time; time.sleep(60)", monkeypatch)
    monkeypatch.setattr(acceptance, "PARTS", [tried, Part("another", "Another")])
    setting = Setting(tmp_path, dry=True)
    assert acceptance.course(setting, ["a_part", "another"], 8, 0.01) is None
    assert running.state_of(setting, tried).status == "cut"
    assert "another              not begun: the time is over" in capsys.readouterr().out


def test_two_at_once_do_not_share_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["", "--cpu", "--folder", str(tmp_path)])
    with FileLock(tmp_path / "lock"):
        assert acceptance.main() == 1
    assert "another run is at work" in capsys.readouterr().err


def test_without_a_gpu_it_says_what_to_type(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resolve, "driver_gpus", lambda: None)
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


@pytest.mark.parametrize("chosen", [each for each in PARTS if each.overrides], ids=lambda each: each.name)
def test_the_jobs_of_its_sweeps_compose(chosen: Part, tmp_path: Path) -> None:
    """At full size: the first of each axis, and the last."""
    for end in (0, -1):
        typed = [text.partition("=") for text in chosen.typed(Setting(tmp_path, dry=False))]
        config = compose([f"{name}={values.split(',')[end]}" for name, _, values in typed])
        assert config.device == "auto"
        assert config.repeat == (1, 3)[end]


def outcome(test: str, ended: str, why: str = "") -> Outcome:
    return Outcome(f"tests/{test}", ended, "abc", why)


def test_verdicts_on_the_criteria() -> None:
    tests = [
        outcome("test_gpu_truths.py::test_work_in_flight_is_not_starved[10-9-10]", "passed"),
        outcome("test_models.py::test_precisions_of_a_gpu[bf16]", "failed"),
        outcome("test_models.py::test_precisions_of_a_gpu[fp16]", "skipped"),
        outcome("loaders/test_contract.py::test_each_sample_once_in_the_plans_order[native-cuda]", "passed"),
        outcome("loaders/test_contract.py::test_each_sample_once_in_the_plans_order[dali-cuda]", "skipped"),
        outcome("test_run.py::test_memory_comes_back_after_each_of_ten_jobs_or_so", "passed"),  # another one
    ]
    comparison = fed({"native": 96.4, "dali": 91.0, "resident": 99.0, "replay": 100.0})
    told = {found.what: found for found in criteria.criteria({"fed": comparison}, OVERHEAD, tests, 16)}
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
    every = told["every loader delivers each sample once, with the same pixels, on CUDA"]
    assert every.reached is None  # one that was skipped shows nothing
    assert every.measured == "1 of 2 tests pass, 1 skipped or not ended"
    assert all(found.reached is None for found in criteria.criteria({}, None, (), None))


@pytest.mark.parametrize(("low", "high", "reached"), [(0.999, 1.0015, True), (1.003, 1.01, False), (0.99, 1.01, None)])
def test_noise_is_no_verdict_on_the_meter(low: float, high: float, reached: bool | None) -> None:
    told = criteria.criteria({}, {**OVERHEAD, "ratio": (1.001, low, high)}, (), None)
    assert {found.what: found.reached for found in told}["the meter costs at most 0.2 % of a ResNet-50 step"] is reached


def test_the_tests_that_criteria_name_are_there() -> None:
    written = "".join(path.read_text() for path in (PROJECT / "tests").rglob("test_*.py"))
    assert all(f"def {name}(" in written for _, name in criteria.BY_TEST)


SUITE = """
import os, pytest

def test_passes(): pass
def test_fails(): assert False
def test_is_skipped(): pytest.skip("needs a CUDA device")
@pytest.fixture
def broken():
    yield
    raise RuntimeError
def test_breaks_afterwards(broken): pass
def test_ends_all():
    if not os.path.exists("again"):
        open("again", "w").close()
        pytest.exit("cut")
def test_comes_after(): pass
"""


def test_tests_that_were_cut_go_on_where_they_were(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE)
    folder = pytester.path

    def run() -> dict[str, str]:
        pytester.inline_run(
            "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "benchmarks.gpu_acceptance.kept", f"--kept={folder}"
        )
        return {name.partition("::test_")[2]: found.outcome for name, found in kept.read(folder).items()}

    first = {"passes": "passed", "fails": "failed", "is_skipped": "skipped", "breaks_afterwards": "failed"}
    assert run() == {**first, "ends_all": "begun", "comes_after": "chosen"}
    assert "needs a CUDA device" in [found.why for found in kept.read(folder).values()]
    before = len((folder / kept.FILE).read_text().splitlines())
    assert run() == {**first, "ends_all": "passed", "comes_after": "passed"}
    lines = [json.loads(line) for line in (folder / kept.FILE).read_text().splitlines()[before:]]
    turns = [line["test"].partition("::test_")[2] for line in lines if line["outcome"] == "begun"]
    # what has passed is not run again, what had cut the run comes last
    assert turns == ["fails", "is_skipped", "breaks_afterwards", "comes_after", "ends_all"]


def test_what_passed_with_other_code_is_run_again(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile("def test_passes(): pass")
    ran = []
    for code in ("before", "before", "after"):
        monkeypatch.setattr(kept, "code_digest", lambda code=code: code)
        pytester.inline_run(
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            "-p",
            "benchmarks.gpu_acceptance.kept",
            f"--kept={pytester.path}",
        )
        ran.append((pytester.path / kept.FILE).read_text().count('"passed"'))
    assert ran == [1, 1, 2]
    monkeypatch.undo()
    assert kept.code_digest() == kept.code_digest()


def test_a_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    (tmp_path / kept.FILE).write_text(
        '{"test": "a", "outcome": "passed", "code": "abc", "why": ""}\n{"test": "b", "outc'
    )
    assert list(kept.read(tmp_path)) == ["a"]
    assert kept.read(tmp_path / "nosuch") == {}


def found_of(comparisons: dict[str, Comparison]) -> page.Found:
    states = {chosen.name: State("cuda", [], [HERE]) for chosen in PARTS}
    states["workers"] = State("cuda", [])
    states["ladder_images"] = State("cuda", [], [HERE, Turn("2026-11-21T09:00:00+00:00", "", "def", "cut", 420.0)])
    tests = [
        outcome("test_a.py::one", "passed"),
        outcome("test_a.py::two", "failed"),
        outcome("test_a.py::three", "begun"),
        outcome("test_a.py::four", "skipped", "needs two GPUs"),
    ]
    return page.Found(states, ENVIRONMENT, OVERHEAD, {test.test: test for test in tests}, comparisons)


def test_the_page_says_what_was_measured_and_what_was_not() -> None:
    found = found_of({"fed": fed({"native": 96.4, "dali": 91.0})})
    text = page.compose(found, {"fed": "![fed](a-gpu/fed.png)"}, "a-gpu")
    for told in (
        "2026-11-20 to 2026-11-21, on commit abc, def. 3 of 10 targets are reached, 6 not measured or not shown, 1 not reached.",
        "| ResNet-50 in bf16 from JPEG files at 95 % of its ceiling or better with the best loader | reached | 96.4 %",
        "`pytest -m gpu`: 1 passed, 1 failed, 1 did not end, 1 skipped; [each by name](a-gpu/tests.jsonl).",
        "- failed: `tests/test_a.py::two`",
        "- did not end: `tests/test_a.py::three`",
        "- skipped 1: needs two GPUs",
        "![fed](a-gpu/fed.png)",
        "[of each arm](a-gpu/fed.csv), [of each run](a-gpu/fed.runs.csv)",
        "## How many workers\n\nNot run.\n\n## Energy",
        "## The ladder, ResNet-18 on JPEG files\n\nCut after 480 s: not all of it was measured.\n\nNo job of it has finished.",
        "| ceiling / DALI's replay evaluator | 1.0400 | 1.0300 to 1.0500 |",
        "tflops 700.1, sm clock mhz 1700.0, pcie generation 5, 16 lanes",
        "- clock held down by: software power cap 40.0 % of the samples",
        "| native | 0.964 | 0.964 to 0.964 | 3 | 400 |",
    ):
        assert told in text, told
    assert text.startswith("# A GPU 80GB\n")
    assert "not to be told" not in text


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without pages, whose pictures are not drawn."""
    monkeypatch.setattr(page, "RESULTS", tmp_path / "docs" / "results")
    monkeypatch.setattr(page, "LADDER_PAGE", tmp_path / "docs" / "results.md")

    def write(comparison: Comparison, _store: object, folder: Path) -> None:
        for name in (compare_runs.PICTURE, "comparison.csv", "runs.csv"):
            (folder / name).write_text(comparison.title)

    monkeypatch.setattr(compare_runs, "save", write)
    return tmp_path / "docs" / "results"


def test_what_the_page_was_made_of_lies_beside_it(results: Path) -> None:
    found = found_of({"fed": fed({"native": 96.4}), "workers": fed({"native": 96.4})})
    found.stores = dict.fromkeys(found.comparisons, cast(Store, None))  # its user is replaced in `results`
    target, undrawn = page.write(found, None)
    assert (target, undrawn) == (results / "a-gpu-80gb.md", {})
    names = {path.name for path in (results / "a-gpu-80gb").iterdir()}
    sweeps = {f"{part}.{suffix}" for part in ("fed", "workers") for suffix in ("png", "csv", "runs.csv")}
    assert names == {"environment.json", "overhead.json", "tests.jsonl", *sweeps}
    links = [text.partition(")")[0] for text in target.read_text().split("](")[1:]]
    assert links
    assert all((results / link).exists() for link in links)
    assert "not to be told" not in "".join(path.read_text() for path in results.rglob("*") if path.is_file())
    found.environment = {**ENVIRONMENT, "machine": {**ENVIRONMENT["machine"], "cores_available": 8}}
    with pytest.raises(
        UserError, match="another machine .A CPU, 16 cores.. Type a name for this one: --name a-gpu-80gb-8-cores"
    ):
        page.write(found, None)
    assert page.write(found, "mine")[0] == results / "mine.md"


def test_a_picture_that_fails_costs_itself_only(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object) -> None:
        raise ValueError("no canvas")

    monkeypatch.setattr(compare_runs, "save", write)
    found = found_of({"fed": fed({"native": 96.4})})
    found.stores = dict.fromkeys(found.comparisons, cast(Store, None))  # its user is replaced in `results`
    target, undrawn = page.write(found, None)
    assert undrawn == {"fed": "ValueError: no canvas"}
    assert "Its picture could not be drawn: ValueError: no canvas" in target.read_text()
    assert results.exists()


def test_the_ladder_comes_to_the_results(results: Path) -> None:
    ladder_page = results.parent / "results.md"
    ladder_page.parent.mkdir()
    opened, closed = page.LADDER_PLACE
    ladder_page.write_text(f"# Results\n\n{opened}\nan older ladder\n{closed}\n\nthe rest\n")
    assert not page.publish_ladder(found_of({}), results / "a-gpu.md")
    found = found_of({"ladder_vectors": fed({"native": 96.4, "dali": 91.0})})
    for _ in range(2):
        assert page.publish_ladder(found, results / "a-gpu.md")
    text = ladder_page.read_text()
    assert text.startswith(f"# Results\n\n{opened}\n\n| ")
    assert text.endswith(f"\n\n{closed}\n\nthe rest\n")
    assert "an older ladder" not in text
    assert "](results/a-gpu/ladder_vectors.png)" in text
    assert "[All results](results/a-gpu.md)" in text
    real = (PROJECT / "docs" / "results.md").read_text()
    assert real.count(opened) == real.count(closed) == 1


def test_reasons_that_hold_a_clock_down() -> None:
    samples = [
        DeviceSample(at_ns=index, throttle_reasons=mask) for index, mask in enumerate((0x4, 0x4 | 0x40, 0x1, 0x1))
    ]
    assert measured.held_down([*samples, DeviceSample(at_ns=9)]) == {
        "software power cap": 50.0,
        "hardware thermal slowdown": 25.0,
    }
    assert measured.held_down([]) == {}

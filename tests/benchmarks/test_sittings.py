"""The sittings of the acceptance run: what they contain, in which order, and whether their estimates describe them."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.gpu_acceptance import __main__ as acceptance
from benchmarks.gpu_acceptance import catalog, packing, plan, running, sittings
from benchmarks.gpu_acceptance.catalog import BY_NAME
from benchmarks.gpu_acceptance.parts import Part, Setting
from benchmarks.gpu_acceptance.plan import Planned
from benchmarks.gpu_acceptance.running import State, Turn
from benchmarks.gpu_acceptance.sittings import SITTINGS, Item
from loaderlab.config import PROJECT, TrackingConfig
from loaderlab.tracking import open_store
from loaderlab.tracking.store import HOST_TAG
from tests.conftest import compose

SWEEPS = [part for part in catalog.PARTS if part.overrides]
ITEMS = [pytest.param(item, id=f"{item.part}-{item.stage}") for items in SITTINGS.values() for item in items]


def values(sweep: list[str]) -> dict[str, set[str]]:
    """The values of each setting of a sweep."""
    return {name: set(listed.split(",")) for name, _, listed in (text.partition("=") for text in sweep)}


def num_jobs(sweep: list[str]) -> int:
    """The number of jobs of a sweep whose axes are all in its overrides."""
    return math.prod(map(len, values(sweep).values()))


@pytest.mark.parametrize("number", SITTINGS)
def test_a_sitting_fits_into_nine_minutes(number: int) -> None:
    assert sittings.total_s(number) <= sittings.SITTING_S
    # stopping the last part, which records its results, and writing the pieces
    assert sittings.SITTING_S + running.END_TIMEOUT_S + 10 <= 9 * 60


@pytest.mark.parametrize("item", ITEMS)
def test_an_estimate_has_the_jobs_and_steps_of_its_stage(item: Item, tmp_path: Path) -> None:
    part = BY_NAME[item.part]
    sweeps = part.sweeps(Setting(tmp_path, trial=False))
    if not part.overrides:
        assert item.estimate.jobs == 0
        assert item.what
        return
    before = num_jobs(sweeps[item.stage - 1]) if item.stage else 0
    assert item.estimate.jobs == num_jobs(sweeps[item.stage]) - before
    config = compose([text for text in sweeps[item.stage] if "," not in text])
    if config.steps is None:
        samples = {"photos": "num_files", "vectors": "num_samples"}[config.data.name]
        assert item.estimate.steps == config.epochs * (getattr(config.data, samples) // config.batch_size)
    else:
        assert item.estimate.steps == config.steps
    assert (item.estimate.probes_s > 0) == config.measure.ceiling


@pytest.mark.parametrize("part", SWEEPS, ids=lambda part: part.name)
def test_a_stage_has_all_jobs_of_the_stage_before(part: Part, tmp_path: Path) -> None:
    """Otherwise it cannot resume the sweep."""
    sweeps = [values(sweep) for sweep in part.sweeps(Setting(tmp_path, trial=False))]
    for earlier, later in pairwise(sweeps):
        assert earlier.keys() == later.keys()
        assert all(earlier[name] <= later[name] for name in earlier)
        assert ",".join(sorted(later["repeat"])) == "1,2,3"


def test_the_first_sitting_does_not_use_dali(tmp_path: Path) -> None:
    for entry in plan.of_sitting(Setting(tmp_path, trial=False), 1):
        command = " ".join(entry.part.command(Setting(tmp_path, trial=False), entry.stage, again=False))
        for without in ("-k not dali", "--ignore-glob=*/test_dali_*.py", str(tmp_path)):
            command = command.replace(without, "")
        assert "dali" not in command
        assert entry.part.name != "evaluator"


def test_both_sittings_with_fed_continue_one_sweep(tmp_path: Path) -> None:
    """The second sitting adds DALI to the sweep of the first, which it completes before if necessary."""
    setting = Setting(tmp_path, trial=False)
    stages = {
        number: [entry.stage for entry in plan.of_sitting(setting, number) if entry.part.name == "fed"]
        for number in (1, 2)
    }
    assert stages == {1: [0, 1], 2: [0, 1, 2]}
    sweeps = [values(sweep)["loader"] for sweep in BY_NAME["fed"].sweeps(setting)]
    assert sweeps == [{"native", "replay"}, {"native", "spdl", "replay"}, {"native", "spdl", "dali", "replay"}]


def test_jobs_do_not_depend_on_the_folder(tmp_path: Path) -> None:
    """On the next host the results may be in another folder, and the sweep continues."""
    for part in SWEEPS:
        commands = [
            [
                text
                for text in part.command(Setting(tmp_path / name, trial=False), again=False)
                if not text.startswith("tracking.uri=")
            ]
            for name in ("a", "b")
        ]
        assert commands[0] == commands[1]


def test_a_sweep_runs_in_the_folder_of_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os; print(os.getcwd())"
    monkeypatch.setattr(Part, "command", lambda *_, **__: [sys.executable, "-c", code])
    for part, folder in ((Part("a_sweep", "", ("x=1",)), tmp_path), (Part("a_program", ""), PROJECT)):
        running.run(Setting(tmp_path, trial=True), part, 1)
        assert (tmp_path / part.name / "output.txt").read_text() == f"{folder}\n"


@pytest.mark.parametrize(
    ("statuses", "started"),
    [
        ({}, [0, 1, 2]),
        ({0: "done"}, [1, 2]),
        ({0: "cut"}, [0, 1, 2]),
        ({0: "done", 1: "failed"}, [1, 2]),  # an arm that always fails must not keep the others from running
    ],
)
def test_stages_run_in_order(
    statuses: dict[int, str], started: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting, part = Setting(tmp_path, trial=False), BY_NAME["fed"]
    runs: list[int] = []

    def run(setting: Setting, part: Part, _minutes: float, stage: int) -> State:
        runs.append(stage)
        return store_turn(setting, part, stage, "failed" if statuses.get(stage) == "failed" else "done")

    monkeypatch.setattr(running, "run", run)
    for stage, status in statuses.items():
        store_turn(setting, part, stage, status)
    plan.run_planned(setting, [Planned(part, stage, 1) for stage in range(3)], None)
    assert runs == started


def test_no_arm_is_added_to_a_stage_that_was_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interrupted part has fewer arms, not fewer repeats of more arms."""
    setting, part = Setting(tmp_path, trial=False), BY_NAME["fed"]
    monkeypatch.setattr(running, "run", lambda *given: store_turn(given[0], given[1], given[3], "cut"))
    planned = [Planned(part, stage, 1) for stage in range(2)]
    plan.run_planned(setting, planned, None)
    assert "fed (stage 2 of 3)   not started: the stage before it was cut" in capsys.readouterr().out
    assert plan.undone(setting, planned) == ["fed (stage 1 of 3)", "fed (stage 2 of 3)"]


def store_turn(setting: Setting, part: Part, stage: int, status: str) -> State:
    """The state after one more run of a stage."""
    state = running.state_of(setting, part)
    state.turns.append(Turn("2026-11-20T10:00:00+00:00", "", "abc", status, 1.0, 0, stage))
    (setting.folder / part.name).mkdir(parents=True, exist_ok=True)
    running.keep(setting.folder / part.name / "part.json", state)
    return state


def test_a_sitting_packs_its_results_after_every_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host may be taken away before the sitting ends. The page is then written without a GPU."""
    packed: list[list[str]] = []

    def run(setting: Setting, part: Part, _minutes: float, stage: int) -> State:
        packed.append(sorted(path.name for path in (tmp_path / "out").glob("*")))
        return store_turn(setting, part, stage, "done" if part.name == "environment" else "cut")

    monkeypatch.setattr(running, "run", run)
    options = ["", "--cpu", "--sitting", "1", "--folder", str(tmp_path / "here"), "--pack", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", options)
    assert acceptance.main() == 1  # most parts were cut
    assert packed[0] == []
    assert all(names == ["results.000", "results.json"] for names in packed[1:])
    packing.unpack(tmp_path / "out", tmp_path / "there")
    names = {entry.part.name for entry in plan.of_sitting(Setting(tmp_path / "here", trial=True), 1)}
    assert {path.parent.name for path in (tmp_path / "there").glob("*/part.json")} == names


def test_what_runs_only_if_time_is_left_is_not_missing(tmp_path: Path) -> None:
    setting = Setting(tmp_path, trial=False)
    planned = list(plan.of_sitting(setting, 3))
    assert {entry.if_time for entry in planned} == {True, False}
    assert plan.undone(setting, planned) == [entry.name(setting) for entry in planned if not entry.if_time]


def test_the_status_of_a_part_with_stages() -> None:
    def status(*ended: tuple[int, str]) -> str:
        turns = [Turn("", "", "", status, 1.0, 0, stage) for stage, status in ended]
        return State("cuda", [], turns, num_stages=2).status

    assert status() == "not run"
    assert status((0, "done")) == "partly"
    assert status((0, "done"), (1, "cut")) == "cut"
    assert status((0, "done"), (1, "cut"), (1, "done")) == "done"
    assert status((0, "failed"), (1, "done")) == "partly"


def test_a_sweep_that_was_killed_on_another_host_can_be_resumed(empty_store: Path, tmp_path: Path) -> None:
    """The store itself only marks the runs of its own host as KILLED."""
    part, setting = BY_NAME["workers"], Setting(tmp_path, trial=True)
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    store = open_store(TrackingConfig(uri=setting.store, experiment=part.name), PROJECT)
    parent = store.start("sweep", None, {"sweep": "parent", HOST_TAG: "another host"})
    assert not running.can_resume(setting, part)  # it was killed before it had written its jobs
    (tmp_path / "plan.json").write_text('{"jobs": []}')
    store.client.log_artifact(parent.run_id, str(tmp_path / "plan.json"))
    store.client.update_run(parent.run_id, status="RUNNING")
    assert running.can_resume(setting, part)
    record = store.run(parent.run_id)
    assert record is not None
    assert record.status == "KILLED"


BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("nvidia.dali", "mlflow")):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""


@pytest.mark.parametrize("part", ["environment", "overhead", "overhead_bf16"])
def test_programs_of_the_first_sitting_run_without_dali_and_mlflow(part: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCKED)
    (tmp_path / part).mkdir()
    paths = os.pathsep.join([str(tmp_path), str(PROJECT / "src"), str(PROJECT)])
    command = BY_NAME[part].command(Setting(tmp_path, trial=True), again=False)
    done = subprocess.run(
        command, cwd=PROJECT, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / part / "found.json").exists()


def test_the_tests_of_the_first_sitting_need_no_dali(tmp_path: Path) -> None:
    """On the first GPU host, files that import DALI ended the collection of all tests."""
    (tmp_path / "sitecustomize.py").write_text(BLOCKED.replace('("nvidia.dali", "mlflow")', '("nvidia.dali",)'))
    (tmp_path / "tests").mkdir()
    paths = os.pathsep.join([str(tmp_path), str(PROJECT / "src"), str(PROJECT)])
    command = [*BY_NAME["tests"].command(Setting(tmp_path, trial=True), again=False), "--collect-only"]
    done = subprocess.run(
        command, cwd=PROJECT, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "test_work_in_flight_is_not_starved" in done.stdout


def test_the_page_about_testing_has_the_estimates() -> None:
    assert sittings.table() in (PROJECT / "docs" / "testing.md").read_text(encoding="utf-8")

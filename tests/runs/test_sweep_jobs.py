"""A sweep's order, hashes, resuming and errors, with real stores and jobs that only write a record."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loaderlab.config import PROJECT, Failed, TrainConfig, UserError
from loaderlab.report import comparison_files
from loaderlab.runs import chosen_runs, compared_loaders, sweep, sweep_jobs, sweep_record
from loaderlab.tracking import open_store
from loaderlab.tracking.records import NOT_APPLICABLE
from loaderlab.tracking.store import Store
from tests.conftest import compose
from tests.launched import Launched

SAVE = comparison_files.save
Jobs = list[tuple[TrainConfig, list[str]]]


@pytest.fixture
def jobs(store_uri: str, image_tree: Path) -> Callable[..., Jobs]:
    """Every combination of the axes in Hydra's order: the first axis varies slowest."""

    def make(*axes: str, **common: str) -> Jobs:
        values = [[f"{axis.partition('=')[0]}={value}" for value in axis.partition("=")[2].split(",")] for axis in axes]
        fixed = [f"{name}={value}" for name, value in common.items()]
        base = [f"tracking.uri={store_uri}", "data=imagefolder", f"data.root={image_tree}", *fixed]
        planned = [[*base, *combination] for combination in itertools.product(*values)]
        return [(compose(overrides), overrides) for overrides in planned]

    return make


def store_and_parent(planned: Jobs) -> tuple[Store, Any]:
    store = open_store(planned[0][0].tracking, PROJECT)
    parent = store.newest_sweep()
    assert parent is not None
    return store, parent


def test_repeats_are_interleaved_in_any_order_of_the_axes(
    jobs: Callable[..., Jobs], launched: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison_files, "save", SAVE)
    planned = jobs("loader=native,dali", "repeat=1,2")
    sweep.run_sweep(planned, ["loader=native,dali", "repeat=1,2"])
    assert launched.names == [
        "loader=native repeat=1",
        "loader=dali repeat=1",
        "loader=native repeat=2",
        "loader=dali repeat=2",
    ]
    assert all(state["machine/busy_pct"] == 1 for state in launched.machines)
    store, parent = store_and_parent(planned)
    assert (parent.status, parent.tags["sweep.num_jobs"]) == ("FINISHED", "4")
    text = store.read(parent.run_id, sweep_jobs.FILE)
    assert text is not None
    assert [job.arm for job in sweep_jobs.from_json(text)] == ["loader=native", "loader=dali"] * 2
    assert "get-artifact?path=comparison/comparison.png" in parent.tags["mlflow.note.content"]
    page = store.read(parent.run_id, "comparison/report.html")
    assert page is not None
    assert "A claim needs at least 3 repeats." in page


def test_resume_runs_missing_and_failed_jobs(jobs: Callable[..., Jobs], launched: Launched) -> None:
    planned = jobs("repeat=1,2,3", "loader=native,dali")
    launched.ends = {"repeat=1 loader=dali": "FAILED", "repeat=3 loader=native": KeyboardInterrupt}
    with pytest.raises(KeyboardInterrupt):
        sweep.run_sweep(planned, [])
    store, parent = store_and_parent(planned)
    assert parent.status == "KILLED"
    launched.names, launched.ends = [], {}
    sweep.run_sweep(planned, [], resume="latest")
    assert launched.names == ["repeat=1 loader=dali", "repeat=3 loader=native", "repeat=3 loader=dali"]
    _, resumed = store_and_parent(planned)
    assert (resumed.run_id, resumed.status, "error" in resumed.tags) == (parent.run_id, "FINISHED", False)
    (comparison,) = chosen_runs.comparisons_of_sweep(store, parent.run_id)
    assert [(arm.label, len(arm.runs)) for arm in comparison.arms] == [("native", 3), ("dali", 3)]
    assert comparison.missing == []
    launched.names = []
    sweep.run_sweep(planned, [], resume=parent.run_id)  # no job is left
    assert launched.names == []


def test_the_reason_of_a_job_without_a_run_is_kept(
    jobs: Callable[..., Jobs], launched: Launched, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = jobs("repeat=1,2", "loader=native,dali")
    launched.ends = {"repeat=2 loader=dali": "LOST"}
    with pytest.raises(Failed) as raised:
        sweep.run_sweep(planned, [])
    store, parent = store_and_parent(planned)
    missing = chosen_runs.comparisons_of_sweep(store, parent.run_id)[0].missing
    assert [(entry.name, entry.why) for entry in missing] == [
        ("loader=dali", "killed: took longer than sweep.job_minutes=1")
    ]
    for output in (str(raised.value), capsys.readouterr().out):  # the printed command names this store
        assert f"{parent.run_id}" in output
        assert f" tracking.uri={store.uri}" in output
    launched.ends = {}
    sweep.run_sweep(planned, [], resume="latest")
    assert chosen_runs.comparisons_of_sweep(store, parent.run_id)[0].missing == []


def test_a_resumed_sweep_may_grow_but_not_change(jobs: Callable[..., Jobs], launched: Launched) -> None:
    planned = jobs("repeat=1,2", "loader=native,dali")
    sweep.run_sweep(planned, [])
    launched.names = []
    sweep.run_sweep(jobs("repeat=1,2,3", "loader=native,dali"), [], resume="latest")
    assert launched.names == ["repeat=3 loader=native", "repeat=3 loader=dali"]
    with pytest.raises(UserError, match="batch_size was 64, now 32") as refused:
        sweep.run_sweep(jobs("repeat=1,2,3", "loader=native,dali", batch_size="32"), [], resume="latest")
    assert "epochs" not in str(refused.value)
    with pytest.raises(UserError, match="repeat was 3, now"):
        sweep.run_sweep(planned, [], resume="latest")


def test_parity_is_checked_once_and_different_work_is_not_compared(
    jobs: Callable[..., Jobs], launched: Launched, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = jobs("repeat=1,2,3", "loader=native,dali,replay")
    unlike = "unlike work: labels: sample 3 (a.jpg) has 1, expected 0"
    launched.parity = {"loader=dali": unlike}
    launched.ends = {"repeat=3 loader=dali": "FAILED"}
    with pytest.raises(Failed):
        sweep.run_sweep(planned, [])
    assert launched.checked == ["loader=native", "loader=dali"]  # a ceiling loads nothing
    store, parent = store_and_parent(planned)
    assert parent.tags["parity"] == f"loader=dali: {unlike}"
    (comparison,) = chosen_runs.comparisons_of_sweep(store, parent.run_id)
    assert [[arm.label for arm in group.arms] for group in comparison.groups] == [["native", "replay"], ["dali"]]
    assert comparison.groups[1].work == {"parity": unlike}
    assert comparison.groups[1].arms[0].gain is None
    assert f"parity {unlike}: Only one arm in this group: dali" in capsys.readouterr().out
    launched.checked, launched.ends = [], {}
    sweep.run_sweep(planned, [], resume="latest")
    assert launched.checked == []  # the earlier result is reused
    grown = jobs("repeat=1,2,3", "loader=native,dali,replay", **{"sweep.parity": "true"})
    grown += jobs("repeat=1,2,3", "loader=native", **{"loader.num_workers": "0"})
    launched.parity = {}
    sweep.run_sweep(grown, [], resume="latest")
    assert launched.checked == ["loader=native loader.num_workers=0"]
    _, parent = store_and_parent(planned)
    assert parent.tags["parity"] == f"loader=dali: {unlike}"


def test_sweeps_without_a_parity_check(jobs: Callable[..., Jobs], launched: Launched) -> None:
    for planned in (
        jobs("loader=native,replay"),
        jobs("repeat=1,2"),
        jobs("loader=native,dali", **{"sweep.parity": "false"}),
        jobs("loader=native,dali", **{"measure.parity": "true"}),  # each job checks its own loader
    ):
        sweep.run_sweep(planned, [])
    assert launched.checked == []


def test_which_loaders_a_sweep_compares(jobs: Callable[..., Jobs]) -> None:
    def names(*axes: str) -> list[str]:
        return [arm.name for arm in compared_loaders.compared_loaders([config for config, _ in jobs(*axes)])]

    assert names("repeat=1,2", "precision=fp32,bf16", "loader=native,dali") == ["loader=native", "loader=dali"]
    assert names("loader.num_workers=0,2", "seed=1,2") == ["loader.num_workers=0", "loader.num_workers=2"]
    assert names("batch_size=8,16", "loader=native,dali") == [
        "loader=native batch_size=8",
        "loader=dali batch_size=8",
        "loader=native batch_size=16",
        "loader=dali batch_size=16",
    ]
    assert names("batch_size=8,16") == []


def test_names_and_storage_settings_do_not_change_the_hash(jobs: Callable[..., Jobs], store_uri: str) -> None:
    original = sweep_jobs.sweep_jobs(jobs("repeat=1,2"))
    moved = sweep_jobs.sweep_jobs(
        [
            (
                compose([*overrides, "tracking.experiment=other", "checkpoint.keep=true", "sweep.job_minutes=5"]),
                overrides,
            )
            for _, overrides in jobs("repeat=1,2")
        ]
    )
    assert [job.hash for job in original] == [job.hash for job in moved]
    assert original[0].hash != original[1].hash


def test_an_arm_that_is_not_applicable_here(
    jobs: Callable[..., Jobs], launched: Launched, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = jobs("repeat=1,2,3", "precision=fp32,tf32")
    launched.ends = {"tf32": NOT_APPLICABLE}
    sweep.run_sweep(planned, [])  # succeeds, since no job failed
    store, parent = store_and_parent(planned)
    assert parent.status == "FINISHED"
    (missing,) = chosen_runs.comparisons_of_sweep(store, parent.run_id)[0].missing
    assert (missing.name, missing.why) == ("precision=tf32", "not applicable here: precision=tf32: needs a GPU")
    assert "not applicable here: precision=tf32: needs a GPU" in capsys.readouterr().out


def test_a_failed_job_does_not_stop_the_others(
    jobs: Callable[..., Jobs], launched: Launched, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = jobs("repeat=1,2,3", "loader=native,dali")
    launched.ends = {"repeat=2 loader=dali": "FAILED"}
    with pytest.raises(
        Failed, match=r"1 of 6 jobs did not finish: repeat=2 loader=dali. To run them again: .* resume="
    ):
        sweep.run_sweep(planned, [])
    assert len(launched.names) == 6
    output = capsys.readouterr().out
    assert "job 2 of 6: repeat=1 loader=dali (about " in output
    assert "left)" in output
    assert output.count("samples/s") >= 5  # the table after each job


def test_a_sweep_without_a_finished_job(jobs: Callable[..., Jobs], launched: Launched) -> None:
    planned = jobs("repeat=1,2")
    launched.ends = {"repeat": "FAILED"}
    with pytest.raises(Failed):
        sweep.run_sweep(planned, [])
    _, parent = store_and_parent(planned)
    assert "none of 2 runs has it" in parent.tags["mlflow.note.content"]


def test_invalid_sweeps(jobs: Callable[..., Jobs], launched: Launched, store_uri: str) -> None:
    with pytest.raises(UserError, match="a sweep of one job has nothing to compare"):
        sweep.run_sweep(jobs("repeat=1"), [])
    with pytest.raises(UserError, match="jobs 1 and 2 of this sweep are the same: "):
        sweep.run_sweep(jobs("epochs=20,20"), [])
    with pytest.raises(UserError, match="one sweep goes to one store"):
        sweep.run_sweep(jobs("tracking.experiment=a,b"), [])
    assert launched.names == []


@pytest.mark.parametrize("resume", ["latest", "0" * 32, "nosuch"])
def test_resuming_a_sweep_that_does_not_exist(resume: str, jobs: Callable[..., Jobs], launched: Launched) -> None:
    with pytest.raises(UserError, match=f"resume={resume}: there is no"):
        sweep.run_sweep(jobs("repeat=1,2"), [], resume=resume)


def test_resuming_a_sweep_that_is_still_running(jobs: Callable[..., Jobs], launched: Launched) -> None:
    planned = jobs("repeat=1,2")
    store = open_store(planned[0][0].tracking, PROJECT)
    parent = store.start("a sweep", None, {"sweep": "parent"})
    sweep_record.save_jobs(parent, sweep_jobs.sweep_jobs(planned))
    with pytest.raises(UserError, match="is still running"):
        sweep.run_sweep(planned, [], resume="latest")
    single = store.start("single", None, {})
    with pytest.raises(UserError, match="is single, a single run and not a sweep; the newest sweeps are"):
        sweep.run_sweep(planned, [], resume=single.run_id)


SWEEP_SCRIPT = """
import sys
from tests.launched import Launched
from loaderlab.cli.compose import compose, typed
from loaderlab.cli.schemas import register
from loaderlab.report import comparison_files
from loaderlab.runs import launch, sweep
from loaderlab.config import TrainConfig
register()
launch.launch = Launched()
comparison_files.save = lambda comparison, store, folder: (folder / "report.html").write_text("a page")
uri, seed = sys.argv[1:]
texts = [[f"tracking.uri={uri}", f"seed={seed}", f"repeat={repeat}"] for repeat in (1, 2)]
sweep.run_sweep([(typed(compose("train", text), TrainConfig), text) for text in texts], [f"seed={seed}"])
"""


def test_two_sweeps_at_once_in_a_new_store_are_complete(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SWEEP_SCRIPT, uri, seed],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for seed in ("0", "10")
    ]
    for process in started:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    store = open_store(compose([f"tracking.uri={uri}"]).tracking, PROJECT)
    parents = store.sweeps()
    assert len(parents) == 2
    for parent in parents:
        children = store.runs(f"tags.`mlflow.parentRunId` = '{parent.run_id}'")
        assert [(child.status, child.settings["repeat"]) for child in children] == [
            ("FINISHED", str(number)) for number in (1, 2)
        ]
        assert store.read(parent.run_id, "comparison/report.html")

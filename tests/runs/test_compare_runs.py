"""RunRecord runs compared by the command: which runs are chosen, which arms are compared, and the gate."""

from __future__ import annotations

import itertools
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from loaderlab.cli.compose import compose, typed
from loaderlab.compare import kinds
from loaderlab.config import PROJECT, CompareConfig, Failed, TrackingConfig, UserError
from loaderlab.runs import chosen_runs, compare_runs, sweep_jobs, sweep_page
from loaderlab.system.terminal import Terminal
from loaderlab.tracking import open_store
from loaderlab.tracking.store import Store, StoreError

Sweep = Callable[..., str]


@pytest.fixture
def store(store_uri: str, tmp_path: Path) -> Store:
    return open_store(TrackingConfig(uri=store_uri), tmp_path)


@pytest.fixture
def swept(store: Store) -> Sweep:
    """Writes a sweep of native and dali with these rates, with one run of both in each repeat."""

    def make(native: Sequence[float], dali: Sequence[float]) -> str:
        with store.start("sweep repeat loader=native,dali", None, {"sweep": "parent"}) as parent:
            for repeat, rates in enumerate(zip(native, dali, strict=True), 1):
                for loader, rate in zip(("native", "dali"), rates, strict=True):
                    with store.start(
                        f"repeat={repeat} loader={loader}", parent.run_id, {"arm": f"loader={loader}"}
                    ) as run:
                        run.params([("loader.name", loader), ("batch_size", 64), ("repeat", repeat), ("seed", 0)])
                        run.metric("rate/samples_per_s", rate, 10)
        return str(parent.run_id)

    return make


@pytest.fixture
def settings(store_uri: str) -> Callable[..., CompareConfig]:
    def make(*overrides: str) -> CompareConfig:
        return typed(compose("compare", [f"tracking.uri={store_uri}", *overrides]), CompareConfig)

    return make


Settings = Callable[..., CompareConfig]


def test_the_latest_sweep_and_its_files(swept: Sweep, settings: Settings, terminal: Terminal, tmp_path: Path) -> None:
    swept([1, 1, 1], [5, 5, 5])
    swept([100, 101, 99], [200, 201, 199])
    compare_runs.run_compare(settings(f"output={tmp_path / 'report'}"), terminal)
    assert terminal.said[1].startswith("dali is the fastest: 2.00x as fast as native (95 % CI ")
    files = {path.name for path in (tmp_path / "report").iterdir()}
    assert {
        "report.html",
        "comparison.csv",
        "comparison.json",
        "comparison.md",
        "throughput.png",
        "comparison.png",
    } <= files
    assert json.loads((tmp_path / "report" / "comparison.json").read_text())["groups"][0]["arms"][1]["median"] == 200


def test_a_sweep_by_its_id_all_runs_and_a_filter(swept: Sweep, settings: Settings, store: Store) -> None:
    first = swept([1, 1, 1], [5, 5, 5])
    swept([100, 101, 99], [200, 201, 199])
    (by_id,) = chosen_runs.comparisons_of(store, settings(f"runs={first}"))
    assert [arm.values for arm in by_id.arms] == [[1, 1, 1], [5, 5, 5]]
    (all_runs,) = chosen_runs.comparisons_of(store, settings("runs=all"))
    assert [len(arm.runs) for arm in all_runs.arms] == [6, 6]
    assert "not interleaved" in all_runs.notes[-1]
    (filtered,) = chosen_runs.comparisons_of(
        store, settings("filter='metrics.`rate/samples_per_s` > 50'", "baseline=loader:dali")
    )
    assert [(arm.label, len(arm.runs), arm.partner.label if arm.partner else None) for arm in filtered.arms] == [
        ("native", 3, "dali"),
        ("dali", 3, None),
    ]
    (by_baseline,) = chosen_runs.comparisons_of(store, settings("baseline=[loader:dali]"))
    assert by_baseline.arms[0].gain is not None
    assert by_baseline.arms[0].gain.value == pytest.approx(0.5, rel=0.01)


def test_another_sweep_as_the_baseline(swept: Sweep, settings: Settings, store: Store, terminal: Terminal) -> None:
    baseline_id = swept([100, 101, 99], [200, 202, 198])
    swept([98, 102, 101], [100, 101, 99])
    config = settings(f"baseline={baseline_id}", "fail_if.rate_below=0.95")
    (comparison,) = chosen_runs.comparisons_of(store, config)
    pairs = {arm.label: arm.partner.label for arm in comparison.arms if arm.partner is not None}
    assert pairs == {"now · native": f"{baseline_id[:8]} · native", "now · dali": f"{baseline_id[:8]} · dali"}
    with pytest.raises(
        Failed, match=r"fail_if.rate_below=0.95: the whole interval is below it: now · dali is 0.50x as fast as"
    ):
        compare_runs.run_compare(config, terminal)
    compare_runs.run_compare(settings(f"baseline={baseline_id}", "fail_if.rate_below=0.4"), terminal)
    assert terminal.said[-1] == "fail_if.rate_below=0.4: passed by 2 arms"


def test_a_gate_with_too_few_repeats_does_not_pass(swept: Sweep, settings: Settings, terminal: Terminal) -> None:
    swept([100, 101], [200, 202])
    with pytest.raises(UserError, match="fewer than 3 repeats in common with the baseline: dali"):
        compare_runs.run_compare(settings("fail_if.rate_below=0.95"), terminal)


def test_a_gate_that_cannot_judge_every_arm_does_not_pass(
    swept: Sweep, settings: Settings, store: Store, terminal: Terminal
) -> None:
    swept([100] * 3, [200] * 3)
    latest = store.newest_sweep()
    assert latest is not None
    with pytest.raises(UserError, match=f"baseline={latest.run_id}: is the sweep itself"):
        compare_runs.run_compare(settings("fail_if.rate_below=0.95", f"baseline={latest.run_id}"), terminal)
    with store.start("repeat=1 loader=spdl", latest.run_id, {"error": "it broke"}) as run:
        run.params([("loader.name", "spdl"), ("batch_size", 64), ("repeat", 1), ("seed", 0)])
        run.end("FAILED")
    store.client.set_terminated(run.run_id, "FAILED")
    with pytest.raises(UserError, match="not measured: repeat=1 loader=spdl: failed: it broke"):
        compare_runs.run_compare(settings("fail_if.rate_below=0.95"), terminal)


def test_the_gate_as_a_command(swept: Sweep, store_uri: str) -> None:
    swept([100, 101, 99], [50, 51, 49])
    command = [
        sys.executable,
        "-m",
        "experiments.compare",
        f"tracking.uri={store_uri}",
        "baseline=loader:native",
        "fail_if.rate_below=0.95",
    ]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 3
    assert (
        "error: fail_if.rate_below=0.95: the whole interval is below it: dali is 0.50x as fast as native" in done.stderr
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["runs=nosuch"], "runs=nosuch: there is no such run; the newest sweeps are "),
        (
            ["runs=all", "metric=energy/joules_per_sample"],
            "none of 6 runs has it .* Type for example: metric=rate/samples_per_s",
        ),
        (["baseline=loader:nosuch"], "loader is one of: dali, native"),
        (["baseline=nosuch"], "baseline=nosuch: must be setting:value, a list of them, or the run id of a sweep"),
        (["filter='nonsense'"], "filter=nonsense: MLflow does not understand it"),
        (["filter='a'", "runs=all"], "cannot be combined with runs=all"),
        (["metric=nosuch"], "metric=nosuch: must be one of rate/samples_per_s"),
        (["output=/proc/nosuch"], "output=/proc/nosuch: cannot be written"),
        (["tracking.experiment=nosuch"], "there is no such experiment in .* It has: .*loaderlab"),
    ],
)
def test_invalid_comparisons(
    overrides: list[str], message: str, swept: Sweep, settings: Settings, terminal: Terminal
) -> None:
    swept([100, 101, 99], [200, 202, 198])
    with pytest.raises(UserError, match=message):
        compare_runs.run_compare(settings(*overrides), terminal)


def test_an_empty_store(settings: Settings, store: Store, terminal: Terminal, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="there is no sweep in .* yet. Type for example: python -m experiments.train -m"
    ):
        compare_runs.run_compare(settings(), terminal)
    missing = f"sqlite:///{tmp_path}/nosuch/mlflow.db"
    with pytest.raises(StoreError, match="nothing has been recorded there yet"):
        open_store(TrackingConfig(uri=missing), tmp_path, create=False)
    assert not (tmp_path / "nosuch").exists()


def test_a_single_run_is_not_a_sweep(store: Store, settings: Settings, swept: Sweep) -> None:
    parent = swept([1, 1, 1], [5, 5, 5])
    child = next(run for run in store.runs() if run.parent_id == parent)
    with pytest.raises(UserError, match=f"a single run and not a sweep; .* Type for example: runs={parent}"):
        chosen_runs.comparisons_of(store, settings(f"runs={child.run_id}"))


def test_jobs_that_never_started_are_listed(store: Store, settings: Settings, tmp_path: Path) -> None:
    planned = [
        sweep_jobs.SweepJob("repeat=1", "an arm", [], {"repeat": "1"}),
        sweep_jobs.SweepJob("repeat=2", "an arm", [], {"repeat": "2"}),
    ]
    with store.start("a sweep", None, {"sweep": "parent"}) as parent:
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / sweep_jobs.FILE).write_text(sweep_jobs.to_json(planned))
        parent.artifacts(tmp_path / "made")
        with store.start("repeat=1", parent.run_id, {"config.hash": planned[0].hash}) as run:
            run.params(planned[0].settings.items())
            run.metric("rate/samples_per_s", 10.0, 1)
    (missing,) = chosen_runs.comparisons_of(store, settings())[0].missing
    assert (missing.name, missing.why) == ("an arm", "not reached")


def test_a_store_of_another_version_says_how_to_upgrade(store_uri: str, settings: Settings, terminal: Terminal) -> None:
    import sqlite3

    MlflowClient(store_uri)
    with sqlite3.connect(store_uri.removeprefix("sqlite:///")) as db:
        db.execute("UPDATE alembic_version SET version_num = '97727af70f4d'")
    code = (
        "from loaderlab.config import TrackingConfig; from loaderlab.tracking import open_store; import sys\n"
        "from pathlib import Path\n"
        "open_store(TrackingConfig(uri=sys.argv[1]), Path('.'))"
    )
    done = subprocess.run([sys.executable, "-c", code, store_uri], capture_output=True, text=True, timeout=100)
    assert f"mlflow db upgrade {store_uri}" in done.stderr


@pytest.fixture
def both_kinds(store: Store) -> Sweep:
    """Writes a sweep of native and dali on a real device, on an emulated accelerator, or on both."""

    def make(*accelerators: str) -> str:
        with store.start("a sweep", None, {"sweep": "parent"}) as parent:
            for accelerator, repeat, loader in itertools.product(accelerators, (1, 2, 3), ("native", "dali")):
                kind = "cpu" if accelerator == "none" else "emulated"
                with store.start(f"{kind} {loader}", parent.run_id, {"device.type": kind, "device.name": kind}) as run:
                    settings = {"loader.name": loader, "accelerator.name": accelerator, "repeat": repeat, "seed": 0}
                    run.params(settings.items())
                    run.metric("rate/samples_per_s", 100.0 + (loader == "dali"), 10)
        return str(parent.run_id)

    return make


@pytest.mark.parametrize("chosen", ["runs=latest", "runs=all"])
def test_real_and_emulated_runs_are_in_different_tables_and_files(
    chosen: str, both_kinds: Sweep, settings: Settings, terminal: Terminal, tmp_path: Path
) -> None:
    both_kinds("none", "custom")
    compare_runs.run_compare(settings(chosen, f"output={tmp_path}/report"), terminal)
    text = "\n".join(terminal.said)
    assert text.index("\nreal devices: ") < text.index("\nemulated custom accelerator: ")
    report = tmp_path / "report"
    assert f"written: {report}/report.html, comparison.csv, .json, .md, runs.csv and the pictures" in text
    named = f"{report}/report_emulated.html, comparison_emulated.csv, .json, .md, runs_emulated.csv and the pictures"
    assert f"written: {named}" in text
    files = {path.name for path in report.iterdir()}
    assert {name for name in files if "emulated" not in name} == {
        name.replace("_emulated", "") for name in files if "emulated" in name
    }
    for path in report.iterdir():
        if path.suffix in (".html", ".csv", ".json", ".md"):
            written = path.read_text()
            assert ("emulated" in written) is ("emulated" in path.name)
            assert ("real devices" in written) is ("emulated" not in path.name and path.suffix != ".csv")
    assert "comparison_emulated.png" in (report / "comparison_emulated.md").read_text()


def test_one_kind_leaves_no_file_of_the_other(
    both_kinds: Sweep, settings: Settings, terminal: Terminal, tmp_path: Path
) -> None:
    both_kinds("custom")
    compare_runs.run_compare(settings(f"output={tmp_path}/report"), terminal)
    assert all("emulated" in path.name for path in (tmp_path / "report").iterdir())


def test_a_baseline_sweep_of_the_other_kind_is_refused(
    both_kinds: Sweep, settings: Settings, store: Store, terminal: Terminal
) -> None:
    real = both_kinds("none")
    for compared in (("custom",), ("none", "custom")):
        both_kinds(*compared)
        with pytest.raises(UserError, match=f"baseline={real}: is a sweep, a sweep of runs on real devices, and there"):
            compare_runs.run_compare(settings(f"baseline={real}"), terminal)
    both = both_kinds("none", "custom")
    both_kinds("custom")
    (comparison,) = chosen_runs.comparisons_of(store, settings(f"baseline={both}"))
    assert [arm.label for arm in comparison.arms if arm.partner] == ["emulated now · native", "emulated now · dali"]


def test_the_suggested_filter_selects_one_kind(both_kinds: Sweep, settings: Settings, store: Store) -> None:
    both_kinds("none", "custom")
    for kind, suggestion in kinds.FILTERS.items():
        (override,) = shlex.split(suggestion)
        (comparison,) = chosen_runs.comparisons_of(store, settings(override))
        assert comparison.is_emulated is kind


def test_a_sweep_with_both_kinds_keeps_both_comparisons(both_kinds: Sweep, store: Store) -> None:
    parent = both_kinds("none", "custom")
    comparisons = chosen_runs.comparisons_of_sweep(store, parent)
    with store.resume(parent) as tracked:
        sweep_page.attach_to_sweep(comparisons, store, tracked)
    tags = store.client.get_run(parent).data.tags
    assert "emulated" not in tags["headline"]
    assert "emulated native" in tags["headline.emulated"]
    note = tags["mlflow.note.content"]
    real, on_emulated = note.split("# emulated custom accelerator: a sweep\n")
    assert real.startswith("# real devices: a sweep\n")
    assert "emulated" not in real
    assert "comparison/comparison_emulated.png" in on_emulated
    names = {entry.path for entry in store.client.list_artifacts(parent, "comparison")}
    assert {"comparison/report.html", "comparison/report_emulated.html", "comparison/comparison_emulated.png"} <= names

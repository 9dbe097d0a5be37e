"""Sweeps with an emulated accelerator, with real stores and jobs that only write a record: names, hashes, resuming."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from loaderlab.cli.main import main
from loaderlab.compare import ladder
from loaderlab.config import PROJECT, TrainConfig, UserError, WrongUsage
from loaderlab.runs import sweep, sweep_jobs
from loaderlab.runs.job import single
from loaderlab.tracking import open_store
from loaderlab.tracking.store import Store
from tests.conftest import compose
from tests.launched import Launched

A100 = "accelerator=resnet50_a100"
Jobs = list[tuple[TrainConfig, list[str]]]


@pytest.fixture
def store(store_uri: str) -> Store:
    return open_store(compose([f"tracking.uri={store_uri}"]).tracking, PROJECT)


@pytest.fixture
def jobs(store_uri: str) -> Callable[..., Jobs]:
    """A job for each list of overrides, written with spaces."""

    def make(*texts: str) -> Jobs:
        planned = [[f"tracking.uri={store_uri}", *text.split()] for text in texts]
        return [(compose(overrides), overrides) for overrides in planned]

    return make


def train(*arguments: str) -> int:
    """The exit code of a sweep that is started as a user starts it."""
    return main("train", TrainConfig, lambda *_: None, ["-m", *arguments])


def test_the_name_of_a_single_run() -> None:
    vectors = ["accelerator=feedforward", "data=vectors", "batch_size=256"]
    assert single(compose(vectors), vectors).name == "vectors emulated feedforward native"
    assert single(compose([A100, "loader=dali"]), []).arm == "digits emulated resnet50_a100 dali"
    assert single(compose([]), []).name == "digits cnn native fp32"


def test_the_names_of_a_sweeps_jobs(jobs: Callable[..., Jobs]) -> None:
    def names(*texts: str) -> list[tuple[str, str]]:
        return [(job.name, job.arm) for job in sweep_jobs.sweep_jobs(jobs(*texts))]

    assert names(f"{A100} repeat=1 loader.num_workers=0", f"{A100} repeat=1 loader.num_workers=2") == [
        ("emulated resnet50_a100 loader.num_workers=0", "emulated resnet50_a100 loader.num_workers=0"),
        ("emulated resnet50_a100 loader.num_workers=2", "emulated resnet50_a100 loader.num_workers=2"),
    ]
    assert names(f"{A100} repeat=1", f"{A100} repeat=2") == [
        ("emulated resnet50_a100 repeat=1", "digits emulated resnet50_a100 native"),
        ("emulated resnet50_a100 repeat=2", "digits emulated resnet50_a100 native"),
    ]
    assert names(f"{A100} loader.num_workers=2", "accelerator=resnet50_h100 loader.num_workers=2") == [
        ("emulated accelerator=resnet50_a100", "emulated accelerator=resnet50_a100"),
        ("emulated accelerator=resnet50_h100", "emulated accelerator=resnet50_h100"),
    ]
    assert names("loader=dali", "loader=native") == [("loader=dali", "loader=dali"), ("loader=native", "loader=native")]


def test_the_name_of_the_parent_run(jobs: Callable[..., Jobs]) -> None:
    def name(overrides: list[str], *texts: str) -> str:
        return sweep_jobs.sweep_name(sweep_jobs.sweep_jobs(jobs(*texts)), overrides)

    assert name(["study=workers", "epochs=2"], A100, f"{A100} repeat=2") == "sweep emulated resnet50_a100 study=workers"
    two = (A100, "accelerator=resnet50_h100")
    assert name(["accelerator=resnet50_a100,resnet50_h100"], *two) == (
        "sweep emulated accelerator=resnet50_a100,resnet50_h100"
    )
    assert name(["repeat=1,2"], "repeat=1", "repeat=2") == "sweep repeat=1,2"
    assert name([], "repeat=1", "repeat=2") == "sweep"


def test_settings_without_an_effect_do_not_change_the_hash(jobs: Callable[..., Jobs]) -> None:
    emulated, no_evaluation, other, batch = sweep_jobs.sweep_jobs(
        jobs(
            A100,
            f"{A100} evaluate=false fail_if.utilization_below=0.5",
            "accelerator=resnet50_h100",
            f"{A100} batch_size=8",
        )
    )
    assert emulated.hash == no_evaluation.hash
    assert len({emulated.hash, other.hash, batch.hash}) == 3
    real, gated = sweep_jobs.sweep_jobs(jobs("batch_size=8", "batch_size=8 fail_if.utilization_below=0.5"))
    assert real.hash == gated.hash
    assert not [name for name in real.settings if name.startswith(("accelerator.", "fail_if."))]


def test_the_rungs_of_an_emulated_ladder_are_different_jobs(jobs: Callable[..., Jobs]) -> None:
    """Without a precision, bf16 has the same settings as the rung before it."""
    common = "study=ladder accelerator=feedforward device=cpu"
    planned = sweep_jobs.sweep_jobs(jobs(*(f"{common} rung={rung}" for rung in ladder.RUNGS)))
    assert sweep_jobs.duplicates(planned) is None
    assert {job.arm for job in planned} == {f"emulated feedforward rung={rung}" for rung in ladder.RUNGS}


def test_a_real_sweep_cannot_be_resumed_as_emulated_nor_the_reverse(
    jobs: Callable[..., Jobs], launched: Launched
) -> None:
    real, emulated = jobs("repeat=1", "repeat=2"), jobs(f"{A100} repeat=1", f"{A100} repeat=2")
    sweep.run_sweep(real, [])
    with pytest.raises(
        UserError, match=r"\(sweep\) are not in this command: accelerator.name was none, now resnet50_a1"
    ):
        sweep.run_sweep(emulated, [], resume="latest")
    sweep.run_sweep(emulated, [])
    with pytest.raises(UserError, match=r"this command: accelerator.name was resnet50_a100, now none\. A resumed"):
        sweep.run_sweep(real, [], resume="latest")
    other = jobs("accelerator=resnet50_h100 repeat=1")
    with pytest.raises(UserError, match=r"accelerator.name was resnet50_a100, now resnet50_h100"):
        sweep.run_sweep(other, [], resume="latest")
    launched.names = []
    sweep.run_sweep(emulated, [], resume="latest")
    assert launched.names == []  # every job is done


def test_a_resumed_sweep_is_checked_as_typed(
    store_uri: str, launched: Launched, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking = f"tracking.uri={store_uri}"
    assert train(tracking, "repeat=1,2") == 0
    assert train(tracking, "resume=latest", A100) == 2
    assert "accelerator.name was none, now resnet50_a100" in capsys.readouterr().err
    assert len(launched.names) == 2


@pytest.mark.parametrize("others", ["", "accelerator.step_ms=20", "checkpoint.dir=/tmp", "model=cnn"])
def test_a_mixed_sweep_is_refused_before_its_settings(
    others: str, launched: Launched, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("accelerator=none,custom", *others.split()) == 2
    assert "error: accelerator=none: a sweep is emulated or real, not both" in capsys.readouterr().err
    assert launched.names == []


def test_a_sweep_is_emulated_or_real(jobs: Callable[..., Jobs], launched: Launched) -> None:
    with pytest.raises(WrongUsage, match="accelerator=none: a sweep is emulated or real, not both"):
        sweep.run_sweep(jobs(A100, "batch_size=8"), [])
    assert launched.names == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (f"{A100} precision=fp32,bf16", f"job 1 ({A100} precision=fp32): precision=fp32: has no effect with {A100}: "),
        (
            "accelerator=resnet50_a100,resnet50_h100 model=cnn",
            "model=cnn: has no effect with accelerator=resnet50_a100",
        ),
        (
            f"study=loader_precision {A100} repeat=1 loader=native",
            "study=loader_precision: varies the precision, which has no effect with",
        ),
        (f"{A100} loader=dali loader.decode=cpu,mixed", "loader.decode=mixed: decoding on the GPU needs a GPU"),
        ("accelerator.step_ms=10,20", "accelerator.step_ms=10: has no effect with accelerator=none"),
    ],
)
def test_a_refused_setting_stops_the_sweep(
    arguments: str, message: str, launched: Launched, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(*arguments.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "No job was started." in error
    assert launched.names == []


@pytest.mark.parametrize("axes", ["loader.num_workers=0,1", "loader.num_threads=1,2", "rung=single,bf16"])
def test_studies_with_an_accelerator(axes: str, store_uri: str, store: Store, launched: Launched) -> None:
    study = {"loader.num_workers": "workers", "loader.num_threads": "threads"}.get(axes.partition("=")[0], "ladder")
    arguments = [f"study={study}", axes, "accelerator=custom", "accelerator.step_ms=20", "repeat=1", "device=cpu"]
    assert train(f"tracking.uri={store_uri}", *arguments) == 0
    name, _, values = axes.partition("=")
    assert launched.names == [f"emulated custom {name}={value}" for value in values.split(",")]
    parent = store.newest_sweep()
    assert parent is not None
    assert parent.name == f"sweep emulated custom study={study} {axes}"

"""``loaderlab tune`` on the command line: a run or a script, what it refuses, its help, and ``+tuned=NAME``."""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from pathlib import Path

import pytest

from loaderlab import config as config_package
from loaderlab.cli import tune
from loaderlab.cli.compose import compose, refuse_no_choice, typed
from loaderlab.cli.main import main
from loaderlab.config import NativeLoader, SpdlLoader, TrainConfig, TunedTrainConfig, WrongUsage


@pytest.fixture
def no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    def job(_config: TunedTrainConfig, _overrides: list[str]) -> None:
        raise AssertionError("no trial may start")

    monkeypatch.setattr(tune, "job", job)


@pytest.mark.parametrize(
    ("arguments", "is_script"),
    [
        ("", False),
        ("--help", False),
        ("-h loader=spdl", False),
        ("loader=spdl train.py", False),
        ("~study", False),
        ("--cfg job loader=spdl", False),
        ("-m loader=spdl,dali", False),
        ("--multirun loader=spdl,dali", False),
        ("train.py", True),
        ("train.py loader=spdl --help", True),
        ("-m package.train --epochs 3", True),
        ("--steps 50 --yes train.py", True),
        ("--steps=50 -m package.train", True),
    ],
)
def test_a_script_is_told_from_the_settings_of_a_run(arguments: str, is_script: bool) -> None:
    assert tune.names_script(arguments.split()) is is_script


def test_a_script_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[Sequence[str]] = []
    fake = types.ModuleType("loaderlab.tuning.script")
    fake.start = lambda arguments: passed.append(arguments) or 7  # type: ignore[attr-defined,func-returns-value]
    monkeypatch.setitem(sys.modules, "loaderlab.tuning.script", fake)
    assert tune.start(["--yes", "train.py", "lr=1"]) == 7
    assert passed == [["--yes", "train.py", "lr=1"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("-m loader=spdl,dali", "-m: the tuner chooses the settings that it tries by itself, so it has no sweep"),
        ("study=workers", "study=workers: is a sweep"),
        ("loader=spdl,dali", "loader=spdl,dali: the tuner chooses the values that it tries by itself"),
        ("tune.minutes=0", "tune.minutes=0.0: must be above 0. Type for example: tune.minutes=3"),
        ("tune.minute=3", "tune.minute: there is no such setting. Did you mean tune.minutes?"),
        ("tune.also=[decoder,nosuch]", "tune.also=nosuch: must be a list of decoder, decode, normalize_on, in_order"),
        ("tune.backends=dly", "tune.backends=dly: must be a list of native"),
        ("tune.name=a-b", "tune.name=a-b: must start with a letter or _, and contain only letters, digits and _"),
        ("tune.name=2024", "tune.name=2024: must start with a letter or _"),
        ("batch_size=0", "batch_size=0: must be at least 1"),
    ],
)
@pytest.mark.usefixtures("no_job")
def test_wrong_usage_starts_no_trial(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune.start(arguments.split()) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"\nerror: {message}")
    assert len(printed.strip().splitlines()) <= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("launch=local", "launch=local: the tuner measures one process"),
        ("loader=replay", "loader=replay: it loads nothing, so there is nothing to tune. Type: loader=native"),
        ("loader=resident", "loader=resident: it has no workers and no threads, so there is nothing to tune"),
        ("resume=latest", "resume=latest: each trial starts from the beginning. Type: resume=null"),
        ("fail_if.utilization_below=0.9", "fail_if.utilization_below=0.9: is a gate of a run"),
        ("accelerator=resnet50_a100 model=cnn", "model=cnn: has no effect with accelerator=resnet50_a100"),
    ],
)
def test_runs_that_cannot_be_tuned(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune.start(arguments.split()) == 2
    assert capsys.readouterr().err.startswith(f"\nerror: {message}")


def test_help_has_the_settings_of_a_run_and_of_the_tuner(capsys: pytest.CaptureFixture[str]) -> None:
    assert tune.start(["loader=spdl", "--help"]) == 0
    page = capsys.readouterr().out
    for text in ("tune.max_starved_pct=5.0", "loader.num_threads=auto", "resnet50_a100", "script.py", "batch_size=64"):
        assert text in page


def test_lists_are_typed_with_and_without_brackets() -> None:
    config = typed(compose("tune", ["tune.also=[decoder,in_order]", "tune.backends=spdl"]), TunedTrainConfig)
    assert (config.tune.also, config.tune.backends) == (("decoder", "in_order"), ("spdl",))
    assert type(config.run) is TrainConfig
    assert dict(config.run.recorded()) == dict(typed(compose("train", []), TrainConfig).recorded())


@pytest.fixture
def tuned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of the tuner's files."""
    (tmp_path / "mlruns").mkdir()
    monkeypatch.setattr(config_package, "store_root", lambda: tmp_path)
    return tmp_path / "mlruns" / "tuned"


@pytest.mark.parametrize("command", ["train", "tune"])
def test_tuned_settings_are_used_by_name(command: str, tuned: Path) -> None:
    tuned.mkdir()
    text = "# @package _global_\ndefaults:\n  - override /loader: spdl\nloader:\n  num_threads: 3\n"
    (tuned / "mine.yaml").write_text(text)
    kind = TrainConfig if command == "train" else TunedTrainConfig
    config = typed(compose(command, ["+tuned=mine", "batch_size=8"]), kind)
    assert config.loader == SpdlLoader(num_threads=3)
    config = typed(compose(command, ["+tuned=mine", "loader.num_threads=1"]), kind)  # what is typed wins
    assert config.loader == SpdlLoader(num_threads=1)
    assert typed(compose(command, []), kind).loader == NativeLoader()


def test_a_name_that_does_not_exist_is_refused_with_those_that_do(tuned: Path) -> None:
    with pytest.raises(WrongUsage, match=r"\+tuned=mine: nothing has been tuned yet. Type: .*tune tune.name=mine"):
        refuse_no_choice(["+tuned=mine"])
    tuned.mkdir()
    for name in ("chosen", "mine"):
        (tuned / f"{name}.yaml").touch()
    refuse_no_choice(["+tuned=mine"])
    with pytest.raises(
        WrongUsage, match=r"\+tuned=min: there is no such choice. Did you mean mine\? tuned is one of: chosen, mine"
    ):
        refuse_no_choice(["+tuned=min"])


def test_the_plus_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("train", TrainConfig, lambda *_: None, ["tuned=mine"]) == 2
    assert "Type: +tuned=NAME" in capsys.readouterr().err

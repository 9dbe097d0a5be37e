"""``--help`` shows every group and every setting of the chosen groups; for a sweep, those of its first job."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig

from loaderlab.cli.compose import typed
from loaderlab.cli.help import _first_job
from loaderlab.cli.main import main
from loaderlab.cli.schemas import CONF
from loaderlab.config import TrainConfig
from loaderlab.runs import sweep


def no_job(_config: TrainConfig, _overrides: list[str]) -> None:
    raise AssertionError("no job may start")


def page(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert main("train", TrainConfig, no_job, arguments) == 0
    return capsys.readouterr().out


def test_a_choice_without_settings_says_which_one_has_some(capsys: pytest.CaptureFixture[str]) -> None:
    doc = "  launch: the ranks of the job and where they run"
    assert f"{doc}. launch=none has no settings; launch=local --help shows those of launch=local\n" in page(
        capsys, ["--help"]
    )
    assert f"{doc}\n    launch.num_ranks=2 " in page(capsys, ["launch=local", "--help"])


def test_help_explains_every_group_and_choice(capsys: pytest.CaptureFixture[str]) -> None:
    text = page(capsys, ["loader=dali", "--help"])
    files = list(CONF.glob("*/*.yaml"))
    assert files
    for file in files:
        comments = file.read_text().splitlines()
        doc = next(line.removeprefix("# ") for line in comments if not line.startswith("# @"))
        assert f"{file.stem:<18}{doc}" in text, file
    for setting in (
        "loader.num_threads=auto",
        "batch_size=64",
        "data.transform.image_size=48",
        "optimizer.lr=",
    ):
        assert setting in text
    assert "first job" not in text


SWEEPS = [  # what is typed, the first value of each list, settings of that job
    ("-m loader=native,dali repeat=1,2,3 --help", "loader=native repeat=1", ["loader.num_workers=auto", "repeat=1"]),
    ("--help -m loader=dali,native repeat=1,2,3", "loader=dali repeat=1", ["loader.num_threads=auto", "repeat=1"]),
    ("loader=dali,native --help --multirun", "loader=dali", ["loader.num_threads=auto"]),
    ("loader=dali -h repeat=2,1 -m", "repeat=2", ["loader.num_threads=auto", "repeat=2"]),
    ("-h -m loader=glob(*)", "loader=dali", ["loader.num_threads=auto"]),
    ("-h -m batch_size=range(8,32,8)", "batch_size=8", ["batch_size=8"]),
    ("study=ladder --help", "repeat=1 rung=single", ["study=ladder", "rung=single", "epochs=5", "repeat=1"]),
    ("study=ladder rung=dali repeat=4,5 --help", "repeat=4", ["rung=dali", "loader.num_threads=auto", "repeat=4"]),
    ("study=loader_precision -m -h", "repeat=1 loader=native precision=fp32", ["precision.name=fp32"]),
]


@pytest.mark.parametrize(("arguments", "first", "settings"), SWEEPS, ids=[arguments for arguments, *_ in SWEEPS])
def test_help_of_a_sweep_shows_its_first_job(
    arguments: str, first: str, settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = page(capsys, arguments.split()).splitlines()
    assert f"Help for the first job of the sweep: {first}" in lines
    shown = {line.split()[0] for line in lines if line.startswith("    ") and line.split()}
    assert set(settings) <= shown


def compose_each_choice_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that differ only in their repeat are composed once: it takes a quarter of a second, and Hydra does it twice."""
    load, composed = ConfigLoaderImpl.load_sweep_config, dict[tuple[str, ...], DictConfig]()

    def load_once(self: ConfigLoaderImpl, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        key = tuple(text for text in sweep_overrides if not text.startswith("repeat="))
        if key not in composed:
            composed[key] = load(self, master_config, sweep_overrides)
        return copy.deepcopy(composed[key])

    monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", load_once)


@pytest.mark.parametrize("arguments", [arguments for arguments, *_ in SWEEPS])
def test_the_sweep_starts_with_the_job_that_help_shows(arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[TrainConfig] = []

    def run_sweep(jobs: list[tuple[TrainConfig, list[str]]], *_: Any) -> None:
        planned.extend(config for config, _ in jobs)

    monkeypatch.setattr(sweep, "run_sweep", run_sweep)
    compose_each_choice_once(monkeypatch)
    without_help = [text for text in arguments.split() if text not in ("-h", "--help")]
    assert main("train", TrainConfig, no_job, without_help) == 0
    cfg, _ = _first_job("train", arguments.split())
    assert planned[0] == typed(cfg, TrainConfig)


@pytest.mark.parametrize("arguments", ["-m loader=dali --help", "--help", "-m -h"])
def test_help_of_one_job_does_not_mention_a_sweep(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "first job" not in page(capsys, arguments.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("loader=dalii --help", "loader=dalii: there is no such choice. Did you mean dali?"),
        ("-h -m loader=dalii,native", "loader=dalii: there is no such choice. Did you mean dali?"),
        ("study=laddder -h", "study=laddder: there is no such choice. Did you mean ladder?"),
        ("-m repeet=1,2 --help", "repeet: there is no such setting. Did you mean repeat?"),
        ("batch_size=abc --help", "batch_size: "),
        ("loader=native,dali --help", "loader=native,dali: several values make a sweep. Type: -m loader=native,dali"),
        ("-m optimizer.lr=interval(0,1) --help", "BasicSweeper does not support sweep type"),
        ("-m a=b=c --help", "need quotes"),
    ],
)
def test_an_error_in_help(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("train", TrainConfig, no_job, arguments.split()) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("\nerror: ")
    assert message in captured.err
    assert captured.out == ""

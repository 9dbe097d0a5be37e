"""What the README tells people to type works, and what it names is there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from loaderlab.cli.compose import compose as hydra_compose
from loaderlab.cli.compose import typed
from loaderlab.cli.plain import read
from loaderlab.cli.schemas import CONF
from loaderlab.config import PROJECT as ROOT
from loaderlab.config import CompareConfig, TraceConfig
from tests.conftest import compose

README = (ROOT / "README.md").read_text()
BLOCKS = "\n".join(re.findall(r"```(?:bash|sh)\n(.*?)```", README, re.S))
LINES = [line.split("#")[0].strip() for line in BLOCKS.splitlines() if line.split("#")[0].strip()]
TRAIN = sorted(
    {line.removeprefix("python -m experiments.train").strip() for line in LINES if "experiments.train" in line}
)
MAKE = sorted({line for line in LINES if line.startswith("make ")})


def test_it_has_commands() -> None:
    assert {"make train", "make test"} <= set(MAKE)
    assert len(TRAIN) >= 5


def jobs_of(arguments: str) -> list[list[str]]:
    """Of a sweep, the job of each axis' first value and that of each axis' last."""
    pairs = [text.partition("=")[::2] for text in shlex.split(arguments) if "=" in text]
    return [[f"{name}={value.split(',')[pick]}" for name, value in pairs] for pick in (0, -1)]


@pytest.mark.parametrize(
    "overrides", {tuple(job): job for text in TRAIN for job in jobs_of(text)}.values(), ids=" ".join
)
def test_its_train_commands_compose(overrides: list[str]) -> None:
    assert compose([text.replace("RUN_ID", "0" * 32) for text in overrides])


@pytest.mark.parametrize("line", [line for line in LINES if "experiments.compare" in line])
def test_its_compare_commands_compose(line: str) -> None:
    arguments = shlex.split(line.removeprefix("python -m experiments.compare").replace("RUN_ID", "0" * 32))
    assert typed(hydra_compose("compare", arguments), CompareConfig)


@pytest.mark.parametrize("line", [line for line in LINES if "experiments.trace" in line])
def test_its_trace_commands_compose(line: str) -> None:
    arguments = shlex.split(line.removeprefix("python -m experiments.trace"))
    assert read("trace", TraceConfig, arguments)


@pytest.mark.parametrize("line", MAKE)
def test_its_make_commands_exist(line: str) -> None:
    done = subprocess.run(["make", "-n", *shlex.split(line)[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_it_names_every_choice() -> None:
    for folder in CONF.iterdir():
        for file in folder.glob("*.yaml") if folder.is_dir() else ():
            assert f"`{file.stem}`" in README, f"{folder.name}={file.stem}"


def test_the_files_that_it_names_are_there() -> None:
    named = set(re.findall(r"`((?:src|conf|experiments|benchmarks|docs|tests|mlruns)/[\w/.]*)`", README))
    assert named
    for path in named:
        assert (ROOT / path).exists(), path


def test_the_main_job_from_a_users_shell(store_uri: str, tmp_path: Path) -> None:
    """The default run, made short: digits written, trained on, recorded, and told how to look at it."""
    command = [
        sys.executable,
        "-m",
        "experiments.train",
        "loader=dali",
        "steps=20",
        "batch_size=16",
        "measure.probe_s=0.1",
        f"tracking.uri={store_uri}",
        f"data.root={tmp_path}",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "digits: 1438 training, 359 validation samples" in done.stdout
    assert f"mlflow ui --backend-store-uri {store_uri}" in done.stdout
    assert re.search(r"^(fed|partly starved|starved|inconclusive): .* % of the time", done.stdout, re.M)
    assert done.stderr == ""
    client = MlflowClient(store_uri)
    experiment = client.get_experiment_by_name("loaderlab")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["rate/samples_per_s"] > 0
    assert run.data.tags["device.type"] in ("cpu", "cuda")

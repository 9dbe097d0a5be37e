"""The wheel in its own environment, used from an empty folder, without extras and with the suite's packages."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

import loaderlab
from loaderlab.config import CONF
from tests import wheel
from tests.trace.test_trace import every, steps, wait, work

WATCHED = """
import sys, time
from loaderlab import watch

def loader():
    for _ in range(60):
        time.sleep(0.004)  # planted: twice as long as the step
        yield 0

with watch("cpu") as meter:
    for _ in meter.batches(loader()):
        time.sleep(0.002)
        meter.step(num_samples=8)
print(meter.verdict())
try:
    with watch("cpu", record="mine"):
        pass
except ValueError as error:
    print(error)
print(sorted({"hydra", "omegaconf", "mlflow", "PIL", "matplotlib", "torchvision", "loaderlab.cli"} & set(sys.modules)))
"""
TINY = ["steps=40", "batch_size=16", "data.image_px=48", "data.transform.image_size=16", "measure.probe_s=0.05"]
TINY += ["torch_threads=1", "loader.num_workers=1"]


@pytest.fixture(scope="module")
def wheel_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheel.build(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def without_extras(wheel_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    binaries = wheel.install(wheel_file, tmp_path_factory.mktemp("plain"))
    wheel.link_packages(binaries, ["torch", "numpy", "scipy", "psutil", "rich"])
    return binaries


@pytest.fixture(scope="module")
def with_suite(wheel_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    binaries = wheel.install(wheel_file, tmp_path_factory.mktemp("suite"))
    wheel.show_all_packages(binaries)
    return binaries


def run(program: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = wheel.clean_environment()
    command = [str(program), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=180)


def test_the_wheel_has_every_choice(without_extras: Path) -> None:
    package = wheel.packages_of(without_extras) / "loaderlab"
    installed = {file.relative_to(package / "conf") for file in (package / "conf").rglob("*.yaml")}
    assert installed == {file.relative_to(CONF) for file in CONF.rglob("*.yaml")}
    for name in ("py.typed", "report/page.html", "report/page.css", "../hydra_plugins/loaderlab_launcher.py"):
        assert (package / name).is_file(), name
    (info,) = package.parent.glob("loaderlab-*.dist-info")
    assert info.name == f"loaderlab-{loaderlab.__version__}.dist-info"
    assert "Apache License" in (info / "licenses" / "LICENSE").read_text()


def test_watch_without_extras(without_extras: Path, tmp_path: Path) -> None:
    done = run(without_extras / "python", "-c", WATCHED, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    verdict, *_, error, imported = done.stdout.splitlines()
    assert verdict.startswith("starved")
    assert error == "watch(record=...) needs mlflow, which is not installed. Type: pip install 'loaderlab[suite]'"
    assert imported == "[]"
    assert list(tmp_path.iterdir()) == []


def test_trace_without_extras(without_extras: Path, tmp_path: Path) -> None:
    (tmp_path / "trace.json").write_text(json.dumps(steps() + every(5, wait, 0, 400) + every(5, work, 300, 800)))
    done = run(without_extras / "loaderlab", "trace", "trace=trace.json", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip().splitlines()[-1].startswith("starved")
    refused = run(without_extras / "loaderlab", "trace", "trace=trace.json", "wiat=x", folder=tmp_path)
    assert refused.returncode == 2
    assert "wiat: there is no such setting. Did you mean wait?" in refused.stderr


@pytest.mark.parametrize("command", ["train", "compare", "doctor", "ui", "server", "sync"])
def test_commands_without_the_suite_name_the_extra(command: str, without_extras: Path, tmp_path: Path) -> None:
    done = run(without_extras / "loaderlab", command, folder=tmp_path)
    package = "mlflow" if command in ("ui", "server", "sync") else "hydra-core"
    assert done.stderr.strip() == (
        f"error: loaderlab {command} needs {package}, which is not installed. Type: pip install 'loaderlab[suite]'"
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert list(tmp_path.iterdir()) == []


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}


def test_a_run_with_the_suite(with_suite: Path, tmp_path: Path) -> None:
    """It leaves a complete record in the working folder, and writes nothing next to the package."""
    packages = wheel.packages_of(with_suite)
    before = files(packages)
    done = run(with_suite / "loaderlab", "train", *TINY, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/mlruns/mlflow.db" in done.stdout
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("loaderlab")
    assert experiment is not None
    (record,) = client.search_runs([experiment.experiment_id])
    assert record.info.status == "FINISHED"
    assert record.data.metrics["rate/samples_per_s"] > 0
    assert record.data.tags["verdict"]
    assert "git.commit" not in record.data.tags  # recorded only in a checkout
    artifacts = {entry.path for entry in client.list_artifacts(record.info.run_id)}
    assert {"config.yaml", "overrides.yaml", "steps.csv", "environment.json", "log.txt", "report.md"} <= artifacts
    assert files(packages) == before
    assert {path.name for path in tmp_path.iterdir()} <= {"mlruns", "data", "outputs"}


def test_a_sweep_with_the_suite(with_suite: Path, tmp_path: Path) -> None:
    """Its jobs are processes that import the console script again."""
    job = ["data=vectors", "data.num_samples=256", "model=feedforward_small", "steps=20", "batch_size=8"]
    job += ["measure=bare", "torch_threads=1", "evaluate=false"]
    done = run(with_suite / "loaderlab", "train", "-m", "repeat=1,2", *job, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^as a page: loaderlab compare runs=\w{32} output=report$", done.stdout, re.MULTILINE)
    assert "experiments." not in done.stdout + done.stderr

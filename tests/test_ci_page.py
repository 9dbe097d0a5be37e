"""The workflow file on the page about CI parses, its commands compose, and it keeps what they write."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import yaml

import loaderlab
from loaderlab.cli.compose import compose as hydra_compose
from loaderlab.cli.compose import typed
from loaderlab.config import PROJECT, CompareConfig, refuse_typed
from tests.conftest import compose
from tests.pages import blocks, program_of

PAGE = PROJECT / "docs" / "ci.md"


@pytest.fixture
def steps() -> list[dict[str, Any]]:
    (block,) = (block for block in blocks(PAGE) if block.language == "yaml")
    workflow = yaml.safe_load(block.text)
    assert {"pull_request", "schedule"} == workflow[True].keys()  # YAML 1.1 reads the key ``on`` as true
    (job,) = workflow["jobs"].values()
    steps: list[dict[str, Any]] = job["steps"]
    return steps


def arguments(steps: list[dict[str, Any]], program: str) -> list[str]:
    """The arguments of the only command of one of our programs."""
    commands = [program_of(step["run"]) for step in steps if "run" in step]
    (text,) = (arguments for name, arguments in commands if name == program)
    return shlex.split(text)


def test_every_step_runs_a_command_or_an_action(steps: list[dict[str, Any]]) -> None:
    assert all(("run" in step) != ("uses" in step) for step in steps)
    for step in steps:
        assert "run" not in step or step["run"].startswith(("pip install ", "loaderlab "))


def test_the_installed_wheel_is_the_one_that_is_built(steps: list[dict[str, Any]]) -> None:
    (install,) = (step["run"] for step in steps if step.get("run", "").startswith("pip install "))
    assert shlex.split(install)[2] == f"wheels/loaderlab-{loaderlab.__version__}-py3-none-any.whl[suite]"


def test_the_sweep_composes_and_has_a_gate(steps: list[dict[str, Any]]) -> None:
    multirun, *texts = arguments(steps, "train")
    assert multirun == "-m"
    overrides = ["repeat=1" if text == "repeat=1,2,3" else text for text in texts]
    config = compose(overrides)
    refuse_typed(config, overrides)
    assert config.accelerator.is_emulated
    assert config.fail_if.utilization_below == 0.9


def test_the_report_is_of_that_sweep_and_both_are_kept(steps: list[dict[str, Any]]) -> None:
    stores = {
        text
        for program in ("doctor", "train", "compare")
        for text in arguments(steps, program)
        if "tracking.uri" in text
    }
    assert stores == {"tracking.uri=sqlite:///mlruns/mlflow.db"}
    config = typed(hydra_compose("compare", arguments(steps, "compare")), CompareConfig)
    report, keep = steps[-2:]
    assert report["run"].startswith("loaderlab compare ")
    assert keep["with"]["path"].split() == [config.output, "mlruns"]
    assert report["if"] == keep["if"] == "${{ !cancelled() }}"  # also if the gate was not passed

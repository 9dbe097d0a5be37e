"""The quick composing function of the tests returns the same as Hydra."""

from __future__ import annotations

import ast
from functools import partial
from graphlib import TopologicalSorter

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from loaderlab.cli.compose import compose as hydra_compose
from loaderlab.config import PROJECT
from tests import conftest
from tests.conftest import composed

OVERRIDES = [
    [],
    ["batch_size=8", "epochs=auto"],
    ["batch_size=8", "batch_size=16"],
    ["loader=dali", "loader.num_threads=3", "precision=bf16"],
    ["loader=native", "loader.num_workers=2", "loader.pin_memory=true"],
    ["data=custom", "data.target=a:b", "+data.options.x=1", "+data.options.y=[1,two]"],
    ["data=custom", "data.target=a:b", "+data.options={x: 1, y: null}"],
    ["data.transform.scale=[0.5,1.0]", "data.transform.resize=null"],
    ["model=feedforward", "data=vectors", "model.hidden=[8,9,10]"],
    ["model.width=16", "model=cnn", "batch_size=2"],
    ["optimizer=sgd", "optimizer.lr=1e-3", "optimizer.momentum=0"],
    ["tracking.experiment='a b=c'", 'data.root="/a folder/with, a comma"'],
    ["study=ladder", "rung=pinned", "batch_size=32"],
    ["++batch_size=4", "~epochs=auto", "++data.nosuch=3"],
    ["steps=5", "evaluate=false", "device=cuda:1", "data.transform={flip: 0.25}"],
]


@pytest.mark.parametrize("overrides", OVERRIDES, ids=" ".join)
def test_the_tests_compose_as_hydra_does(overrides: list[str]) -> None:
    expected, actual = hydra_compose("train", overrides), composed(overrides)
    assert actual == expected
    assert OmegaConf.to_yaml(actual) == OmegaConf.to_yaml(expected)
    assert {name: OmegaConf.get_type(actual, name) for name in ("data", "model", "loader")} == {
        name: OmegaConf.get_type(expected, name) for name in ("data", "model", "loader")
    }


def test_the_tests_compose_a_set_of_choices_once(monkeypatch: pytest.MonkeyPatch) -> None:
    composed(["loader=dali"])
    monkeypatch.delattr(conftest, "hydra_compose")
    assert composed(["loader=dali", "batch_size=3"]).batch_size == 3


@pytest.mark.parametrize(
    "override",
    ["model.width=16 model=resnet18", "data.options={x: 1}", "+batch_size=1", "batch_size@loader=1", "~nosuch"],
)
def test_the_tests_fail_as_hydra_does(override: str) -> None:
    messages = []
    for function in (partial(hydra_compose, "train"), composed):
        with pytest.raises(HydraException) as raised:
            function(override.split(" ", 1))
        messages.append(str(raised.value))
    assert messages[0] == messages[1]


def test_the_modules_of_the_command_line_have_no_import_cycle() -> None:
    imports_of = {}
    for path in (PROJECT / "src/loaderlab/cli").glob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        modules = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        imports_of[f"loaderlab.cli.{path.stem}"] = [name for name in modules if name.startswith("loaderlab.cli.")]
    assert any(imports_of.values())
    TopologicalSorter(imports_of).prepare()  # raises CycleError

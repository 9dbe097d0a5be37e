"""Packages that are missing: the message names the package and the extra that installs it."""

from __future__ import annotations

import re
import sys
import tomllib

import pytest

from loaderlab.attach.watch import watch
from loaderlab.cli import composed, train, ui
from loaderlab.config import PROJECT
from loaderlab.system import extras


def test_what_is_installed_is_not_missed() -> None:
    extras.require("loaderlab train", "hydra", "mlflow", "nvidia.dali")


@pytest.mark.parametrize("installed", [True, False])
def test_a_missing_package(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "INSTALLED", installed)
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(extras.MissingPackage) as raised:
        extras.require("loaderlab train", "hydra", "mlflow")
    install = "pip install 'loaderlab[suite]'" if installed else "pip install --editable '.[suite]'"
    assert str(raised.value) == f"loaderlab train needs hydra-core, which is not installed. Type: {install}"


@pytest.mark.parametrize(
    ("module", "package"),
    [
        ("timm", "timm"),
        ("hydra.errors", "hydra-core"),
        ("nvidia.dali", "nvidia-dali-cuda120"),
        ("sklearn", "scikit-learn"),
    ],
)
def test_the_package_of_a_module(module: str, package: str) -> None:
    assert f"needs {package}," in extras.missing("loaderlab train", module)


@pytest.mark.parametrize("module", ["nosuch", "hydrant", "nvidia", "nvidia.cudnn", ""])
def test_a_module_of_no_extra_has_no_message(module: str) -> None:
    assert extras.missing("loaderlab train", module) == ""


def test_a_dotted_name_without_its_parent_is_missing() -> None:
    assert not extras._installed("nosuch.part")


def test_every_package_is_in_its_extra() -> None:
    """PyYAML comes with omegaconf and is not named."""
    declared = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {extra: {re.split(r"[^\w-]", text)[0] for text in texts} for extra, texts in declared.items()}
    for package, extra in extras.EXTRAS.values():
        assert package in names[extra] | {"PyYAML"}, package


@pytest.mark.parametrize("start", [train.start, ui.start])
def test_a_command_without_its_packages_ends_with_one_line(
    start: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(extras, "_installed", lambda module: False)
    assert callable(start)
    assert start([]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.strip().splitlines()
    assert re.match(r"error: \S.* needs (hydra-core|mlflow), which is not installed\. Type: pip install", line)


def test_a_package_that_a_choice_needs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """timm is needed by some models only: it is missed where it is imported."""
    from loaderlab.cli.frame import framed

    def work() -> None:
        monkeypatch.setitem(sys.modules, "timm", None)
        __import__("timm.models")

    assert framed("train", work) == 1
    assert "needs timm, which is not installed" in capsys.readouterr().err
    monkeypatch.delitem(sys.modules, "timm", raising=False)

    def other() -> None:
        __import__("nosuch_module_of_a_user")

    with pytest.raises(ModuleNotFoundError):
        framed("train", other)


def test_a_record_of_a_watched_loop_needs_mlflow_before_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "_installed", lambda module: module != "mlflow")
    with pytest.raises(extras.MissingPackage, match=r"watch\(record=\.\.\.\) needs mlflow, which is not installed"):
        watch("cpu", record="mine").__enter__()


def test_a_run_needs_what_is_checked() -> None:
    assert set(composed.NEEDED) <= set(extras.EXTRAS)

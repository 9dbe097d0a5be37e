"""Hooks that run after a module was imported."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from loaderlab.attach.after_import import AfterImport

NAME = "a_module_of_this_test"


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ModuleType]]:
    (tmp_path / f"{NAME}.py").write_text("VALUE = 3\n\ndef f():\n    return VALUE\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    seen: list[ModuleType] = []
    yield seen
    sys.modules.pop(NAME, None)


def test_the_hook_runs_once_after_the_module_was_executed(seen: list[ModuleType]) -> None:
    AfterImport({NAME: seen.append}).install()
    assert not seen
    module = importlib.import_module(NAME)
    assert [entry.VALUE for entry in seen] == [3]
    importlib.reload(module)
    assert len(seen) == 1
    assert inspect.getsource(module.f) == "def f():\n    return VALUE\n"
    assert "exec_module" not in vars(module.__spec__.loader)  # type: ignore[union-attr]


def test_a_module_that_is_imported_already_is_hooked_at_once(seen: list[ModuleType]) -> None:
    module = importlib.import_module(NAME)
    AfterImport({NAME: seen.append}).install()
    assert seen == [module]


def test_a_module_that_fails_is_not_hooked(seen: list[ModuleType], tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.py").write_text("raise RuntimeError('bad module')\n")
    AfterImport({NAME: seen.append}).install()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="bad module"):
            importlib.import_module(NAME)
    assert seen == []


def test_a_missing_module_stays_missing(seen: list[ModuleType]) -> None:
    AfterImport({f"{NAME}.nothing": seen.append}).install()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"{NAME}.nothing")

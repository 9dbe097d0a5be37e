"""The registry of metrics is the only place that knows their names."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from loaderlab import metrics
from loaderlab.config import PROJECT

PACKAGE = PROJECT / "src" / "loaderlab"
CODE = [path for folder in (PACKAGE, PROJECT / "benchmarks") for path in folder.rglob("*.py")]
FILES = sorted(path for path in CODE if path != PACKAGE / "metrics.py")
PREFIXES = tuple(sorted({name.partition("/")[0] + "/" for name in metrics.TABLE}))


def strings(path: Path) -> list[str]:
    """Every piece of text in a file's code, those of f-strings included, without docstrings."""
    tree = ast.parse(path.read_text())
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_no_other_file_spells_a_metric(path: Path) -> None:
    spelled = [text for text in strings(path) if text in metrics.TABLE]
    assert not spelled, f"use the constants of loaderlab.metrics for {spelled}"
    built = [text for text in strings(path) if text in PREFIXES or text in ("time/host_", "time/loader_")]
    assert not built, f"look names up in loaderlab.metrics instead of building them from {built}"


def test_the_docs_page_is_the_registry() -> None:
    assert (PROJECT / "docs" / "metrics.md").read_text() == metrics.markdown()


def test_a_metric_as_text() -> None:
    assert metrics.metric(metrics.RATE).quantity(1234.4) == "1,234 samples/s"
    assert metrics.metric(metrics.WAIT_PCT).text(12.34) == "12.3 % of the window"
    assert metrics.metric(metrics.WAIT_PCT).cell(12.34) == "12.3 %"
    assert metrics.metric(metrics.HEADROOM_X).text(1.5) == "1.50x"
    assert metrics.metric(metrics.HOST_PEAK_MIB).cell(1234.0) == "1,234"
    assert metrics.metric(metrics.VAL_ACCURACY).text(0.98) == "0.9800"


def test_which_way_is_better() -> None:
    assert metrics.higher_is_better(metrics.RATE)
    assert not metrics.higher_is_better(metrics.TRAIN_S)
    assert metrics.higher_is_better(metrics.VAL_ACCURACY)


def test_units_agree_with_names() -> None:
    """A name ends in its unit, in the spelling that MLflow allows."""
    ends = {"%": "_pct", "ms": "_ms", "s": "_s", "MiB": "_mib", "samples/s": "_samples_per_s", "W": "_w", "x": "_x"}
    for entry in metrics.TABLE.values():
        end = ends.get(entry.unit)
        assert end is None or entry.name.endswith(end) or entry.name == metrics.RATE, entry

"""The registry of metrics is the only place that contains their names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from loaderlab import metrics
from loaderlab.config import PROJECT

PACKAGE = PROJECT / "src" / "loaderlab"
CODE = [path for folder in (PACKAGE, PROJECT / "benchmarks") for path in folder.rglob("*.py")]
FILES = sorted(path for path in CODE if path != PACKAGE / "metrics.py")
PREFIXES = tuple(sorted({name.partition("/")[0] + "/" for name in metrics.TABLE}))


def strings(path: Path) -> list[str]:
    """Every string in a file's code, including the parts of f-strings, without docstrings."""
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


UNITS = sorted({entry.unit for entry in metrics.TABLE.values()} - {"", "%", "x", "s"}, key=len, reverse=True)
SPELLED_UNIT = re.compile(rf"(?<![\w/])({'|'.join(map(re.escape, UNITS))})(?![\w/])")
NUMBER_FORMAT = re.compile(r"\{:[,.\d]*[dfg]\}")  # formats of str.format; f-strings may format ratios and counts


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if path.parent.name in ("compare", "report")],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_units_and_formats_come_from_the_registry(path: Path) -> None:
    own = [text for text in strings(path) if SPELLED_UNIT.search(text) or NUMBER_FORMAT.search(text)]
    assert not own, f"use the methods of loaderlab.metrics.Metric for {own}"


@pytest.mark.parametrize("text", ["1,234 samples/s", "host memory, MiB", "ms", " J/sample", "{:,.2f}", "{:.4g} W"])
def test_a_spelled_unit_or_format_is_detected(text: str) -> None:
    assert SPELLED_UNIT.search(text) or NUMBER_FORMAT.search(text)


@pytest.mark.parametrize("text", ["host_wait_ms", "num_samples", "of {count} arms", "samples seen", "Why?"])
def test_other_text_is_not_a_unit(text: str) -> None:
    assert not SPELLED_UNIT.search(text)
    assert not NUMBER_FORMAT.search(text)


def test_labels_for_axes_and_sentences() -> None:
    assert metrics.metric(metrics.VAL_LOSS).short_label == "validation loss"
    assert metrics.metric(metrics.HOST_PEAK_MIB).short_label == "host memory"
    assert metrics.metric(metrics.RATE).axis == "samples/s"
    assert all(metrics.metric(name).column for name in metrics.COMPARED)


def test_the_docs_page_is_the_registry() -> None:
    assert (PROJECT / "docs" / "metrics.md").read_text() == metrics.markdown()


def test_a_metric_as_text() -> None:
    assert metrics.metric(metrics.RATE).quantity(1234.4) == "1,234 samples/s"
    assert metrics.metric(metrics.WAIT_PCT).text(12.34) == "12.3 % of the window"
    assert metrics.metric(metrics.WAIT_PCT).cell(12.34) == "12.3 %"
    assert metrics.metric(metrics.HEADROOM_X).text(1.5) == "1.50x"
    assert metrics.metric(metrics.HOST_PEAK_MIB).cell(1234.0) == "1,234"
    assert metrics.metric(metrics.VAL_ACCURACY).text(0.98) == "0.9800"


def test_higher_is_better() -> None:
    assert metrics.higher_is_better(metrics.RATE)
    assert not metrics.higher_is_better(metrics.TRAIN_S)
    assert metrics.higher_is_better(metrics.VAL_ACCURACY)


def test_units_agree_with_names() -> None:
    """A name ends in its unit, spelled as MLflow allows."""
    ends = {"%": "_pct", "ms": "_ms", "s": "_s", "MiB": "_mib", "samples/s": "_samples_per_s", "W": "_w", "x": "_x"}
    for entry in metrics.TABLE.values():
        end = ends.get(entry.unit)
        assert end is None or entry.name.endswith(end) or entry.name == metrics.RATE, entry

"""What every setting is made with."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import omegaconf

from loaderlab import metrics
from loaderlab.config import PROJECT, CompareConfig
from loaderlab.config.base import MISSING


def test_missing_is_what_omegaconf_takes_for_missing() -> None:
    assert MISSING == omegaconf.MISSING
    assert omegaconf.OmegaConf.missing_keys(omegaconf.OmegaConf.create({"root": MISSING})) == {"root"}


def test_the_schema_needs_the_standard_library_only() -> None:
    code = (
        "import sys; before = set(sys.modules); import loaderlab.config\n"
        "loaded = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(loaded - sys.stdlib_module_names - {'loaderlab'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_a_comparisons_metrics_are_those_of_the_registry() -> None:
    (metric,) = (entry for entry in dataclasses.fields(CompareConfig) if entry.name == "metric")
    assert metric.metadata["choices"] == metrics.COMPARED
    doc = "the figure that gains are of; auto: rate/samples_per_s, of a ladder time/train_s"
    assert metric.metadata["doc"] == doc

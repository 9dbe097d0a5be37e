"""The building blocks of the schema."""

from __future__ import annotations

import dataclasses
import math
import re
import subprocess
import sys

import omegaconf
import pytest

from loaderlab import metrics
from loaderlab.cli.compose import refuse_no_choice
from loaderlab.cli.schemas import SCHEMAS
from loaderlab.config import (
    PROJECT,
    CompareConfig,
    FailIfConfig,
    RunFailIfConfig,
    SweepConfig,
    TransformConfig,
    UserError,
    check_bounds,
)
from loaderlab.config.base import MISSING
from tests.conftest import compose


def test_missing_is_omegaconfs_missing_value() -> None:
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
    doc = "metric of the gains; auto: rate/samples_per_s, for a ladder time/train_s"
    assert metric.metadata["doc"] == doc


def test_a_number_without_a_default_has_an_example() -> None:
    """A message about a wrong type needs a number to type."""
    kinds = [kind for group in SCHEMAS.values() for kind in group.values()]
    for kind in {*kinds, SweepConfig, TransformConfig, RunFailIfConfig, FailIfConfig}:
        for entry in dataclasses.fields(kind):
            if entry.default is None and re.search("int|float", str(entry.type)):
                assert entry.metadata["example"] is not None, (kind, entry.name)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lr=nan", "optimizer.lr=nan: must be finite"),
        ("optimizer.lr=-inf", "optimizer.lr=-inf: must be finite"),
        ("measure.probe_s=inf", "measure.probe_s=inf: must be finite"),
        ("checkpoint.every_minutes=inf", "checkpoint.every_minutes=inf: must be finite"),
        ("data.transform.mean=[nan,0.5,0.5]", "data.transform.mean="),
        ("batch_size=99999999999999", "batch_size=99999999999999: must be at most 2147483647"),
        ("data.transform.image_size=99999999999999", "data.transform.image_size=99999999999999: must be at most"),
        ("loader.num_workers=100000", "loader.num_workers=100000: must be at most 4096"),
        (f"seed={2**64}", f"seed={2**64}: must be at most {2**63 - 1}"),
    ],
)
def test_impossible_numbers_are_refused(override: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as error:
        compose([override])
    assert "\n" not in str(error.value)


def test_every_number_of_the_schema_has_bounds() -> None:
    """NaN, infinity and 400 digits in any numeric setting of any choice."""
    for kind in {kind for choices in SCHEMAS.values() for kind in choices.values()}:
        for entry in dataclasses.fields(kind):
            default = None if entry.default is dataclasses.MISSING else entry.default
            field = dataclasses.field(default=default, metadata=entry.metadata)
            alone = dataclasses.make_dataclass("Alone", [(entry.name, object, field)])
            for value in (math.nan, math.inf, -math.inf, [0.5, math.nan], 10**400):
                with pytest.raises(UserError, match=entry.name):
                    check_bounds(alone(value))


@pytest.mark.parametrize("value", ["null", "1", "true", "1.5", "-3", "nan"])
@pytest.mark.parametrize("group", ["loader", "data", "study"])
def test_a_group_needs_the_name_of_a_choice(group: str, value: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"{group}={value}: is not a choice")):
        refuse_no_choice([f"{group}={value}"])
    refuse_no_choice([f"{group}=native", "-m", "batch_size=1", "model=resnet18", "repeat=1,2", "loader=dali,native"])

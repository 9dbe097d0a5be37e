"""A candidate as the settings of a run, as overrides and as a file for Hydra."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from loaderlab.config import AUTO, DaliLoader, LoaderConfig, NativeLoader, ResidentLoader, SpdlLoader
from loaderlab.tuning.candidate import DALI, NATIVE, RESIDENT, SPDL, Branch, Candidate
from loaderlab.tuning.suite_settings import file_of, loader_of, overrides_of, run_of, trial_config
from loaderlab.tuning.trial import Trial
from tests.conftest import compose

NOW = Candidate(Branch(NATIVE), 4, 2, pin_memory=True, side_stream=True, persistent=True, start_method="fork")
SPDL_NOW = Candidate(Branch(SPDL), 2, 3, pin_memory=False, side_stream=False)
CASES: list[tuple[Candidate, Candidate, LoaderConfig, LoaderConfig, str]] = [  # to, from, typed, expected, overrides
    (NOW, NOW, NativeLoader(), NativeLoader(), "loader.num_workers=4 loader.prefetch_factor=2"),
    (
        replace(NOW, makers=2),
        NOW,
        NativeLoader(decoder="pillow"),
        NativeLoader(num_workers=2, decoder="pillow"),
        "loader.num_workers=2 loader.prefetch_factor=2",
    ),
    (
        replace(NOW, makers=0, prefetch=None, persistent=None, start_method=None),
        NOW,
        NativeLoader(num_workers=4, prefetch_factor=8, persistent_workers=True, start_method="fork"),
        NativeLoader(num_workers=0),
        "loader.num_workers=0 loader.prefetch_factor=auto loader.persistent_workers=auto loader.start_method=auto",
    ),
    (
        replace(NOW, makers=0, prefetch=None, persistent=None, start_method=None),
        NOW,
        NativeLoader(),
        NativeLoader(num_workers=0),
        "loader.num_workers=0",
    ),
    (
        replace(NOW, side_stream=False, start_method="spawn"),
        NOW,
        NativeLoader(),
        NativeLoader(side_stream=False, start_method="spawn"),
        "loader.num_workers=4 loader.prefetch_factor=2 loader.side_stream=false loader.start_method=spawn",
    ),
    (
        Candidate(Branch(SPDL), 1, 3, pin_memory=True, side_stream=True),
        NOW,
        NativeLoader(decoder="pillow", pin_memory=True),
        SpdlLoader(num_threads=1, buffer_size=3, decoder="pillow", pin_memory=True, side_stream=True),
        "loader=spdl loader.num_threads=1 loader.buffer_size=3 loader.pin_memory=true loader.side_stream=true",
    ),
    (
        Candidate(Branch(DALI), 1, 2),
        SPDL_NOW,
        SpdlLoader(num_threads=2),
        DaliLoader(num_threads=1, prefetch_queue_depth=2),
        "loader=dali loader.num_threads=1 loader.prefetch_queue_depth=2",
    ),
    (
        Candidate(Branch(RESIDENT)),
        NOW,
        NativeLoader(decoder="pillow"),
        ResidentLoader(decoder="pillow"),
        "loader=resident",
    ),
]


@pytest.mark.parametrize(("candidate", "current", "base", "expected", "overrides"), CASES)
def test_only_what_differs_from_the_command_is_changed(
    candidate: Candidate, current: Candidate, base: LoaderConfig, expected: LoaderConfig, overrides: str
) -> None:
    assert loader_of(candidate, current, base) == expected
    assert " ".join(overrides_of(candidate, current, base)) == overrides


@pytest.mark.parametrize(("candidate", "current", "base", "_expected", "overrides"), CASES)
def test_the_file_has_the_settings_of_the_overrides(
    candidate: Candidate, current: Candidate, base: LoaderConfig, _expected: LoaderConfig, overrides: str
) -> None:
    text = file_of(candidate, current, base, "certified: a sentence")
    assert text.startswith("# @package _global_\n# certified: a sentence\n")
    read = yaml.safe_load(text)
    assert read.pop("defaults") == [{"override /loader": candidate.branch.backend}]
    settings = {f"loader.{name}": value for name, value in read.get("loader", {}).items()}
    typed = dict(word.split("=") for word in overrides.split() if not word.startswith("loader="))
    assert {name: str(value).lower() for name, value in settings.items()} == typed


def test_requested_changes_of_the_work() -> None:
    base = compose(["data=digits", "loader.num_workers=4"])
    also = (("data.transform.normalize_on", "loader"), ("loader.in_order", "false"))
    candidate = replace(NOW, branch=Branch(NATIVE, also))
    config = run_of(candidate, NOW, base)
    assert config.data.transform.normalize_on == "loader"  # type: ignore[attr-defined]
    assert config.loader == NativeLoader(num_workers=4, in_order=False)
    assert overrides_of(candidate, NOW, base.loader)[-2:] == [
        "data.transform.normalize_on=loader",
        "loader.in_order=false",
    ]
    read = yaml.safe_load(file_of(candidate, NOW, base.loader, ""))
    assert read["data"] == {"transform": {"normalize_on": "loader"}}
    assert read["loader"] == {"num_workers": 4, "prefetch_factor": 2, "in_order": False}
    assert base.data.transform.normalize_on == "device"  # type: ignore[attr-defined]


def test_the_run_of_a_trial() -> None:
    """No evaluation, no checkpoint, its own length; torch's threads stay automatic."""
    base = compose(["steps=500", "fail_if.utilization_below=0.9", "measure.epoch_steps=90", "measure.parity=true"])
    config = trial_config(Trial(NOW, "a reason", 2.0, alone=True), NOW, base, 3.0)
    measure = config.measure
    assert (config.steps, config.epochs, config.evaluate, config.checkpoint.every_minutes) == (None, AUTO, False, None)
    assert (measure.seconds, measure.epoch_steps, measure.probe_s, measure.parity) == (2.0, 90, 1.0, False)
    assert (measure.ceiling, measure.loader_alone, measure.contention) == (False, True, AUTO)
    assert (config.torch_threads, config.sweep.job_minutes) == (AUTO, 3.0)
    measure = trial_config(Trial(NOW, "a reason", 3.0, probes=True, epoch_steps=40), NOW, base, 3.0).measure
    assert (measure.epoch_steps, measure.ceiling, measure.loader_alone) == (40, True, True)
    assert trial_config(Trial(NOW, "", 1.0), NOW, base, 3.0).measure.loader_alone is False

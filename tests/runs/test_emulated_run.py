"""An emulated run records no setting that it does not use, and warns of samples of another size."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import yaml

from loaderlab.config import PROJECT, TrainConfig
from loaderlab.runs import run
from loaderlab.runs.job import single
from loaderlab.system.terminal import Terminal
from loaderlab.tracking import open_store

UNUSED = ("model.", "precision.", "optimizer.", "checkpoint.", "evaluate", "deterministic")


@pytest.mark.parametrize("accelerator", ["resnet50_h100", "none"])
def test_the_settings_that_are_recorded(
    accelerator: str, make_config: Callable[..., TrainConfig], terminal: Terminal
) -> None:
    config = make_config(f"accelerator={accelerator}", "steps=4", "loader.num_workers=0", "device=cpu")
    result = run.run(config, single(config, []), terminal)
    store = open_store(config.tracking, PROJECT)
    record = store.run(result.run_id)
    assert record is not None
    text = store.read(result.run_id, "config.yaml")
    assert text is not None
    for names in (set(record.settings), set(yaml.safe_load(text))):
        unused = {prefix for prefix in UNUSED if any(name.startswith(prefix) for name in names)}
        emulated = {name for name in names if name.startswith("accelerator.")}
        assert (unused, bool(emulated)) == ((set(), True) if config.accelerator.is_emulated else (set(UNUSED), False))
        assert not [name for name in names if name.startswith("fail_if.")]
    warned = any("its speed is for stored samples of 114.7 kB" in line for line in terminal.said)
    assert warned is config.accelerator.is_emulated


@pytest.mark.slow
def test_the_gate_of_a_real_process(store_uri: str) -> None:
    """The loader makes thousands of samples per second: it feeds 20 per second, and cannot feed a million."""
    settings = ["data=digits", "steps=30", "loader.num_workers=0", "measure=bare", f"tracking.uri={store_uri}"]
    for speed, code in (
        ("accelerator.step_ms=50 batch_size=1", 0),
        ("accelerator.samples_per_s=1e6 batch_size=256", 3),
    ):
        arguments = ["accelerator=custom", *speed.split(), *settings, "fail_if.utilization_below=0.9"]
        command = [sys.executable, "-m", "experiments.train", *arguments]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)
        assert done.returncode == code, done.stdout + done.stderr
        said = done.stderr if code else done.stdout
        assert f"fail_if.utilization_below=0.9: {'not reached' if code else 'passed'}: digits emulated custom" in said

"""A job of one rank on a GPU: its gradients go through NCCL, and its collectives are timed by events."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from loaderlab import metrics
from loaderlab.config import PROJECT, TrackingConfig
from loaderlab.tracking import open_store


@pytest.mark.gpu
def test_a_rank_on_a_gpu_averages_its_gradients_with_nccl(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    settings = [
        "launch=local",
        "launch.num_ranks=1",
        "device=cuda",
        "model=cnn",
        "steps=60",
        "measure=bare",
        f"tracking.uri={uri}",
    ]
    command = [sys.executable, "-m", "experiments.train", *settings]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, encoding="utf-8", timeout=200)
    assert done.returncode == 0, done.stderr
    (run,) = open_store(TrackingConfig(uri=uri), tmp_path).runs()
    assert run.figures[metrics.NUM_RANKS] == 1
    step_ms = run.figures[metrics.STEP_MS]
    assert 0 < run.figures[metrics.COLLECTIVE_MS] < step_ms  # the broadcast of buffers and the all-reduce
    assert run.figures[metrics.FORWARD_MS] + run.figures[metrics.BACKWARD_MS] <= step_ms

"""A device that fails during a run: the run fails with the first error, and its results so far are recorded."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from loaderlab.config import Failed
from loaderlab.runs.sweep import run_sweep
from tests.cuda_double.failing import CUDA_ERROR, FIRST, OUT_OF_MEMORY, SETTINGS, Make, Trial
from tests.cuda_double.job_process import in_jobs

STRIDES = {CUDA_ERROR: 110, OUT_OF_MEMORY: 60}  # `tests.cuda_double.every_failure` tries every call


@pytest.mark.parametrize("kind", STRIDES)
def test_a_failure_at_any_call(kind: str, make_config: Make) -> None:
    trial = Trial(make_config(*SETTINGS))
    tried = trial.calls(kind)[7 :: STRIDES[kind]]
    names, allocations = trial.whole.calls, trial.calls(OUT_OF_MEMORY)
    if kind == CUDA_ERROR:
        discarded = names.index("synchronize") + 1  # the step before the training; then the weights are restored
        read = [at for at, name in enumerate(names[: trial.whole.num_trained], 1) if name == "elapsed_time"]
        tried += [*range(discarded + 1, discarded + 10, 2), read[-3]]  # and while an epoch's last step is read
    else:
        own_cost = max(at for at, pair in enumerate(pairwise(names), 1) if pair[1] == "Event" != pair[0])
        tried += [max(at for at in allocations if at <= own_cost), allocations[-1]]  # the end of the probes, and of all
    wrong = {(at, trial.whole.calls[at - 1]): found for at in tried if (found := trial.problems(kind, at))}
    assert wrong == {}


LOADERS = {
    "native": ["loader=native", "loader.num_workers=1"],
    "spdl": ["loader=spdl", "loader.num_threads=1"],
    "dali": ["loader=dali", "loader.num_threads=1"],
    "resident": ["loader=resident"],
    "replay": ["loader=replay", "loader.num_batches=2"],
}


@pytest.mark.parametrize("loader", LOADERS)
def test_every_loader_is_closed_after_a_failure(loader: str, make_config: Make) -> None:
    settings = [text for text in SETTINGS if not text.startswith("loader")]
    trial = Trial(make_config(*settings, "measure.device_samples=true", *LOADERS[loader]), real=True)
    assert trial.whole.num_trained is not None
    num_calls = trial.whole.num_trained
    for share in (0.3, 0.55, 0.9):
        assert trial.problems(CUDA_ERROR, round(share * num_calls)) == []


@pytest.mark.slow
def test_a_sweep_continues_after_a_failed_device(
    make_config: Make,
    store_uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each job has its own process, so a device that failed in one works in the next."""
    settings = [text for text in SETTINGS if not text.startswith("measure.probe_s")]
    settings += ["measure=bare", "sweep.parity=false", "sweep.start=spawn", "epochs=6"]
    failures: list[tuple[str, int] | None] = [(CUDA_ERROR, 1100), (OUT_OF_MEMORY, 300), None]
    jobs = [(make_config(*settings, f"seed={seed}"), [f"seed={seed}"]) for seed in range(len(failures))]
    in_jobs(monkeypatch, tmp_path, failures)
    with pytest.raises(Failed, match="2 of 3 jobs did not finish"):
        run_sweep(jobs, ["seed=0,1,2"])
    client = MlflowClient(store_uri)
    experiment = client.get_experiment_by_name(jobs[0][0].tracking.experiment)
    assert experiment is not None
    parent, *children = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    assert [run.info.status for run in (parent, *children)] == ["FAILED", "FAILED", "FAILED", "FINISHED"]
    for run in children[:-1]:
        assert FIRST in run.data.tags["error"]
        assert "traceback.txt" in {entry.path for entry in client.list_artifacts(run.info.run_id)}
    assert ["rate/samples_per_s" in run.data.metrics for run in children] == [True, False, True]
    assert "Not measured" in parent.data.tags["mlflow.note.content"]
    assert capsys.readouterr().out.count(": failed: ") >= 2

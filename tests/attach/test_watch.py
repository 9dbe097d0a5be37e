"""The meter in a user's own loop: metrics, verdict, and an optional MLflow run."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import mlflow.artifacts
import pytest
import torch
from mlflow.tracking import MlflowClient
from torch.utils.data import DataLoader, TensorDataset

from loaderlab import watch
from loaderlab.config import UserError

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def sleepy(batches: int, seconds: float) -> Iterator[torch.Tensor]:
    for _ in range(batches):
        time.sleep(seconds)
        yield torch.ones(4, 2)


@pytest.mark.parametrize("device", DEVICES)
def test_three_lines_around_a_loop(device: str) -> None:
    model = torch.nn.Linear(2, 2).to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with watch(device) as meter:
        for _ in range(2):
            for inputs in meter.batches(sleepy(30, 0.004)):
                loss = model(inputs.to(device)).sum()
                loss.backward()
                optimizer.step()
                meter.step(num_samples=len(inputs), loss=loss)
    verdict, figures = meter.verdict(), meter.figures()
    assert (verdict.grade, verdict.bottleneck) == ("starved", "loader")
    assert figures["starvation/wait_pct"] > 50
    assert figures["starvation/starved_pct"] <= 100
    assert figures["time/step_ms"] >= 4
    assert {
        "time/compute_ms",
        "time/epoch_gap_ms",
        "cpu/utilization_pct",
        "train/loss",
        "starvation/epoch_gap_pct",
    } <= figures.keys()
    # phases without marks are not measured
    assert (
        not {"time/forward_ms", "time/transfer_ms", "starvation/delivery_pct", "rate/ceiling_samples_per_s"}
        & figures.keys()
    )


def test_delivery_is_measured_separately() -> None:
    with watch("cpu") as meter:
        for inputs in meter.batches(sleepy(40, 0.0)):
            time.sleep(0.002)
            meter.delivered()
            time.sleep(0.002)
            meter.step(num_samples=len(inputs))
    assert 30 < meter.figures()["starvation/delivery_pct"] < 70
    assert meter.verdict().bottleneck == "host-to-device copy"


def test_a_torch_data_loader_gets_advice_in_torch_terms() -> None:
    class Slow(TensorDataset):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
            time.sleep(0.002)
            return tuple(tensor[index] for tensor in self.tensors)

    with watch("cpu", warmup_steps=2) as meter:
        for (inputs,) in meter.batches(DataLoader(Slow(torch.ones(40, 2)), batch_size=2)):
            meter.step(num_samples=len(inputs))
    verdict = meter.verdict()
    assert verdict.grade == "starved"
    assert [verdict.render(advice) for advice in verdict.advice] == ["DataLoader(num_workers=2)"]
    assert "Try DataLoader(num_workers=2): more workers" in str(verdict)
    assert verdict.advice[0].gain_x == pytest.approx(2, rel=0.1)  # two workers in parallel


@pytest.mark.parametrize("device", DEVICES)
def test_an_inference_loop_can_be_watched(device: str, store_uri: str) -> None:
    drawn = torch.random.get_rng_state()
    with torch.inference_mode(), watch(device, record="inference", uri=store_uri) as meter:
        for inputs in meter.batches(sleepy(30, 0.0)):
            meter.step(num_samples=len(inputs))
    assert meter.figures()["meter/overhead_pct"] > 0
    assert torch.equal(drawn, torch.random.get_rng_state())


@pytest.mark.parametrize("referenced", [True, False])
def test_a_loop_that_stops_early_has_the_same_shares_as_a_complete_one(referenced: bool) -> None:
    """The last batch's wait and work belong to no step, and the time after the loop to no epoch."""
    with watch("cpu", warmup_steps=0) as meter:
        for _ in range(6):
            batches = meter.batches(sleepy(30, 0.004))
            for index, inputs in enumerate(batches):
                if index == 10:
                    time.sleep(0.05)
                    break
                time.sleep(0.004)
                meter.step(num_samples=len(inputs))
            if not referenced:
                del batches
            time.sleep(0.05)  # an evaluation
    figures = meter.figures()
    assert 35 < figures["starvation/starved_pct"] < 65
    assert max(step.other for step in meter._meter.steps) < 40_000_000  # less than the evaluation
    assert figures["starvation/epoch_gap_pct"] < 20


def test_an_iterator_that_was_left_does_not_end_the_epoch_after_it() -> None:
    """A user may close the iterator of an earlier loop inside the next loop."""
    with watch("cpu", warmup_steps=0) as meter:
        left = meter.batches(sleepy(5, 0.0))
        next(left)
        meter.step(num_samples=4)
        later = meter.batches(sleepy(30, 0.0))
        for index, inputs in enumerate(later):
            if index == 10:
                left.close()  # type: ignore[attr-defined]
            meter.step(num_samples=len(inputs))
        assert [step.epoch for step in meter._meter.steps] == [0] + [1] * 30
        assert len(meter._meter.epochs_ns) == 2


def test_an_iterator_that_was_left_cannot_be_continued() -> None:
    with watch("cpu", warmup_steps=0) as meter:
        left = meter.batches(sleepy(5, 0.0))
        next(left)
        meter.step(num_samples=4)
        newer = meter.batches(sleepy(5, 0.0))
        next(newer)
        with pytest.raises(UserError, match="was called again while this loop was running"):
            next(left)
        meter.step(num_samples=4)  # the newer loop continues
    assert [step.epoch for step in meter._meter.steps] == [0, 1]


def test_few_steps_are_inconclusive() -> None:
    with watch("cpu") as meter:
        assert meter.verdict().grade == "inconclusive"
        for inputs in meter.batches(sleepy(8, 0.0)):
            meter.step(num_samples=len(inputs))
    assert "3 steps were measured" in meter.verdict().because


def test_wrong_use_is_an_error() -> None:
    with watch("cpu") as meter:
        with pytest.raises(UserError, match="there is none to end"):
            meter.step(num_samples=1)
        with pytest.raises(UserError, match="must be called between a batch"):
            meter.delivered()
        with pytest.raises(UserError, match=r"was not called for a batch"):
            for _ in meter.batches(sleepy(2, 0.0)):
                pass
        next(batches := meter.batches(sleepy(2, 0.0)))
        with pytest.raises(UserError, match="must be a whole number of at least 1"):
            meter.step(num_samples=0)
        assert isinstance(batches, Generator)
        batches.close()
    with pytest.raises(UserError, match="device=tpu"):
        watch("tpu")


@pytest.mark.parametrize("ended", [True, False])
def test_a_loop_that_stops_early_keeps_its_steps(ended: bool) -> None:
    with watch("cpu", warmup_steps=0) as meter:
        for index, inputs in enumerate(meter.batches(sleepy(30, 0.0))):
            if index == 20 and not ended:
                break
            meter.step(num_samples=len(inputs))
            if index == 20:
                break
        for inputs in meter.batches(sleepy(5, 0.0)):
            meter.step(num_samples=len(inputs))
    assert [step.epoch for step in meter._meter.steps] == [0] * (20 + ended) + [1] * 5
    assert len(meter._meter.epochs_ns) == 2


@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_its_mlflow_run(error: type[BaseException] | None, status: str, store_uri: str) -> None:
    def loop() -> None:
        with watch("cpu", record="my loop", uri=store_uri, experiment="mine") as meter:
            for inputs in meter.batches(sleepy(30, 0.001)):
                meter.step(num_samples=len(inputs), loss=torch.tensor(0.5))
            if error is not None:
                raise error("no more")

    if error is None:
        loop()
    else:
        with pytest.raises(error):
            loop()
    client = MlflowClient(store_uri)
    experiment = client.get_experiment_by_name("mine")
    assert experiment is not None
    (recorded,) = client.search_runs([experiment.experiment_id])
    assert (recorded.info.status, recorded.info.run_name) == (status, "my loop")
    assert recorded.data.metrics["train/loss"] == 0.5
    assert recorded.data.tags["verdict"] == "starved"
    assert (
        recorded.data.tags.get("error", "")
        == {"FINISHED": "", "FAILED": "ValueError: no more", "KILLED": "interrupted by Ctrl-C"}[status]
    )
    folder = Path(mlflow.artifacts.download_artifacts(recorded.info.artifact_uri))
    assert {path.name for path in folder.iterdir()} == {"steps.csv", "breakdown.png", "report.md", "environment.json"}
    assert "host_compute_ms" in (folder / "steps.csv").read_text()


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, loaderlab; print('torch' in sys.modules, 'watch' in loaderlab.__all__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["False", "True"]

"""A complete run in this process: its record in MLflow, resuming, and errors for bad input."""

from __future__ import annotations

import gc
import gzip
import json
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import mlflow.artifacts
import pytest
import torch
import yaml
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from loaderlab.config import TrainConfig, UserError
from loaderlab.device.cpu import Cpu
from loaderlab.loaders.contract import EpochPlan
from loaderlab.loaders.native import Native
from loaderlab.meter.phases import StepMeter
from loaderlab.meter.profile import BEYOND, StepProfiler
from loaderlab.runs import job, measured_loop, run
from loaderlab.system.terminal import Terminal
from loaderlab.training import loop

Make = Callable[..., TrainConfig]
METRICS = {
    "rate/samples_per_s",
    "starvation/wait_pct",
    "starvation/starved_pct",
    "time/step_ms",
    "time/step_p95_ms",
    "time/step_max_ms",
    "time/wait_ms",
    "time/transfer_ms",
    "time/forward_ms",
    "time/backward_ms",
    "time/optimizer_ms",
    "time/other_ms",
    "time/startup_s",
    "time/first_batch_s",
    "time/epoch_gap_ms",
    "time/train_s",
    "train/loss",
    "train/learning_rate",
    "val/loss",
    "val/accuracy",
    "memory/host_peak_mib",
    "cpu/utilization_pct",
    "meter/overhead_pct",
}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def go(config: TrainConfig, terminal: Terminal) -> job.RunResult:
    return run.run(config, job.single(config, ["some=override"]), terminal)


def recorded(config: TrainConfig) -> list[Run]:
    """The recorded runs, newest first."""
    client = MlflowClient(config.tracking.uri)
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"]))


def artifact(config: TrainConfig, run_id: str, name: str) -> str:
    entry = MlflowClient(config.tracking.uri).get_run(run_id)
    return Path(mlflow.artifacts.download_artifacts(f"{entry.info.artifact_uri}/{name}")).read_text()


def test_a_loaders_note_is_a_warning(make_config: Make, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Native, "notes", ("loader.decode=mixed: the CPU decodes",))
    go(make_config("loader=native", "loader.num_workers=0", "epochs=1", "measure=bare", "evaluate=false"), terminal)
    assert terminal.said.count("warning: loader.decode=mixed: the CPU decodes") == 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "overrides",
    [
        "loader=native loader.num_workers=1",
        "loader=dali",
        "loader=replay",
        "loader=spdl loader.num_threads=1",
        "loader=resident",
        "loader=native loader.num_workers=1 precision=bf16",
    ],
)
def test_the_record_of_a_run(overrides: str, device: str, make_config: Make, terminal: Terminal) -> None:
    config = make_config(*overrides.split(), "epochs=4", "measure.warmup_steps=2", f"device={device}")
    result = go(config, terminal)
    record = MlflowClient(config.tracking.uri).get_run(result.run_id)
    assert (record.info.status, result.status) == ("FINISHED", "FINISHED")
    assert set(record.data.metrics) >= METRICS
    assert all(result.figures[name] == record.data.metrics[name] for name in result.figures)
    assert record.data.params["loader.name"] == config.loader.name
    assert record.data.params["batch_size"] == "4"
    assert record.data.tags["device.type"] == device
    assert record.data.tags["precision.in_force.matmul_dtype"] == ("bfloat16" if "bf16" in overrides else "float32")
    assert record.inputs is not None
    assert record.inputs.dataset_inputs[0].dataset.name == "imagefolder"
    names = {entry.path for entry in MlflowClient(config.tracking.uri).list_artifacts(result.run_id)}
    assert names == {
        "config.yaml",
        "overrides.yaml",
        "steps.csv",
        "environment.json",
        "breakdown.png",
        "report.md",
        "log.txt",
    }
    assert yaml.safe_load(artifact(config, result.run_id, "overrides.yaml")) == ["some=override"]
    assert yaml.safe_load(artifact(config, result.run_id, "config.yaml"))["loader.name"] == config.loader.name
    assert json.loads(artifact(config, result.run_id, "environment.json"))["versions"]["torch"] == version("torch")
    assert "throughput" in artifact(config, result.run_id, "log.txt")
    steps = artifact(config, result.run_id, "steps.csv").splitlines()
    assert len(steps) == 1 + 4 * 4  # 18 training samples in batches of 4; the short batch is dropped
    parts = sum(
        result.figures[f"time/{part}_ms"] for part in ("wait", "transfer", "forward", "backward", "optimizer", "other")
    )
    assert parts == pytest.approx(result.figures["time/step_ms"], rel=1e-6)


def test_loss_is_logged_at_real_steps(make_config: Make, terminal: Terminal) -> None:
    config = make_config("epochs=3", "tracking.log_every=3")
    result = go(config, terminal)
    client = MlflowClient(config.tracking.uri)
    points = client.get_metric_history(result.run_id, "train/loss")
    assert [point.step for point in points][:5] == [
        3,
        4,
        7,
        8,
        11,
    ]  # an epoch has four steps, and the loss is also recorded at its end
    assert [point.step for point in client.get_metric_history(result.run_id, "val/accuracy")] == [
        4,
        8,
        12,
        12,
    ]


def test_losses_depend_on_the_seed_and_not_on_the_workers(make_config: Make, terminal: Terminal) -> None:
    losses = []
    for overrides in (["loader.num_workers=0"], ["loader.num_workers=2"], ["seed=1"]):
        config = make_config("epochs=2", "deterministic=true", "optimizer=sgd", *overrides)
        text = artifact(config, go(config, terminal).run_id, "steps.csv")
        losses.append([line.split(",")[4] for line in text.splitlines()[1:]])
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("precision", ["fp32", pytest.param("fp16", marks=pytest.mark.slow)])
def test_a_resumed_run_ends_like_an_uninterrupted_one(
    precision: str, make_config: Make, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = [
        "epochs=4",
        "optimizer.warmup_steps=2",
        f"precision={precision}",
        "checkpoint.every_minutes=0",
        "tracking.log_every=1",
    ]
    whole = go(make_config(*common), terminal)

    evaluations = iter(range(99))

    def interrupted(*_: object) -> dict[str, float]:
        if next(evaluations) == 2:
            raise KeyboardInterrupt
        return {}

    with monkeypatch.context() as patched:
        patched.setattr(loop, "evaluate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            go(make_config(*common), terminal)
    config = make_config(*common, "resume=latest")
    killed = recorded(config)[0]
    assert killed.info.status == "KILLED"
    assert "rate/samples_per_s" in killed.data.metrics  # the measurements are kept
    resumed = go(config, terminal)
    assert resumed.figures["train/loss"] == pytest.approx(whole.figures["train/loss"], rel=1e-4)
    assert resumed.figures["val/loss"] == pytest.approx(whole.figures["val/loss"], rel=1e-4)
    record = MlflowClient(config.tracking.uri).get_run(resumed.run_id)
    assert record.data.tags["resumed_from"] == killed.info.run_id
    steps = MlflowClient(config.tracking.uri).get_metric_history(resumed.run_id, "train/loss")
    assert [point.step for point in steps] == [9, 10, 11, 12, 13, 14, 15, 16, 16]


def test_a_finished_run_keeps_no_checkpoint_by_default(make_config: Make, terminal: Terminal) -> None:
    config = make_config("epochs=1", "checkpoint.every_minutes=0")
    go(config, terminal)
    assert not list(Path(config.checkpoint.dir).glob("*"))
    kept = go(make_config("epochs=1", "checkpoint.every_minutes=0", "checkpoint.keep=true"), terminal)
    assert (Path(config.checkpoint.dir) / kept.run_id / "checkpoint.pt").exists()


def test_bad_resumes(make_config: Make, terminal: Terminal, tmp_path: Path) -> None:
    def error_of(*overrides: str) -> str:
        with pytest.raises(UserError) as error:
            go(make_config("epochs=2", *overrides), terminal)
        return str(error.value)

    assert "no checkpoint under" in error_of("resume=latest")
    assert "no such checkpoint" in error_of(f"resume={tmp_path}/nosuch.pt")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    assert "is not a checkpoint of loaderlab" in error_of(f"resume={tmp_path}/junk.pt")
    go(make_config("epochs=2", "checkpoint.every_minutes=0", "checkpoint.keep=true"), terminal)
    assert "already has 2 epochs. Type for example: epochs=4" in error_of("resume=latest")
    other = error_of("resume=latest", "batch_size=8", "optimizer.lr=0.5")
    assert "batch_size (was 4, is 8)" in other
    assert "optimizer.lr" in other


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["device=cuda"], "device=cuda: torch finds no CUDA device here"),
        (["precision=tf32"], "precision=tf32: needs an NVIDIA GPU"),
        (["loader=dali", "loader.decode=mixed"], "loader.decode=mixed: decoding on the GPU needs a GPU"),
        (["loader.pin_memory=true"], "loader.pin_memory=true"),
        (["batch_size=100"], "batch_size=100: there are 18 training samples"),
        (["model=timm", "model.name=resnet5000"], "timm has no such model"),
        (["data.root=/nosuch"], "data.root=/nosuch: this folder does not exist"),
        (["optimizer.warmup_steps=1000"], "optimizer.warmup_steps=1000"),
        (
            ["checkpoint.every_minutes=0", "checkpoint.dir=/proc/nosuch"],
            "checkpoint.dir=/proc/nosuch: the checkpoint cannot be written: [Errno 2]",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_ends_the_run_as_failed(
    overrides: list[str], message: str, make_config: Make, terminal: Terminal
) -> None:
    if torch.cuda.is_available() and "cuda" in message.lower() + " ".join(overrides):
        pytest.skip("there is a CUDA device here")
    config = make_config(*overrides)
    with pytest.raises(UserError) as error:
        go(config, terminal)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    failed = recorded(config)[0]
    assert failed.info.status == "FAILED"
    assert message in failed.data.tags["error"]
    assert failed.data.params["batch_size"] == str(config.batch_size)


@pytest.mark.parametrize("device", DEVICES)
def test_a_broken_file_fails_the_run_and_keeps_what_was_measured(
    device: str, make_config: Make, own_tree: Path, terminal: Terminal
) -> None:
    bad = own_tree / "bee" / "05.jpg"
    bad.write_bytes(b"junk" * 100)
    position = 13 + 5  # of bee/05.jpg in the file list
    seed = next(seed for seed in range(99) if position in EpochPlan(23, 2, True, True, seed).batches(0)[5])
    config = make_config(
        f"data.root={own_tree}",
        "data.val_fraction=0.0",
        "epochs=2",
        "batch_size=2",
        "loader.num_workers=0",
        f"seed={seed}",
        f"device={device}",
    )
    with pytest.raises(UserError, match="cannot be decoded"):
        go(config, terminal)
    failed = recorded(config)[0]
    assert failed.info.status == "FAILED"
    assert str(bad) in failed.data.tags["error"]
    assert "train/loss" in failed.data.metrics
    assert "Traceback" in artifact(config, failed.info.run_id, "traceback.txt")


def test_out_of_memory_says_what_to_lower(
    make_config: Make, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1 GiB. More."
        )

    monkeypatch.setattr(measured_loop, "train", full)
    config = make_config()
    with pytest.raises(UserError, match=r"batch_size=2 \(with accumulate=2"):
        go(config, terminal)
    assert recorded(config)[0].info.status == "FAILED"


def test_a_gpu_that_torch_cannot_use(make_config: Make, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loaderlab.device.resolve.driver_gpus", lambda: {"driver": "470.1", "names": ["Tesla X"]})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"470\.1\) shows Tesla X, but torch .* cannot use it") as raised:
        go(make_config(), terminal)
    assert "device=cpu" in str(raised.value)
    assert go(make_config("device=cpu", "epochs=1"), terminal).status == "FINISHED"


def test_too_few_steps_are_reported(make_config: Make, terminal: Terminal) -> None:
    result = go(make_config("steps=2"), terminal)
    assert "rate/samples_per_s" not in result.figures
    assert any("at least 15 are needed" in line for line in terminal.said)


@pytest.mark.gpu
def test_out_of_memory_on_a_real_gpu(make_config: Make, terminal: Terminal) -> None:
    torch.cuda.empty_cache()  # memory cached by earlier tests does not count towards the limit
    torch.cuda.set_per_process_memory_fraction(0.0005)
    try:
        with pytest.raises(UserError, match="CUDA out of memory with batch_size=16"):
            go(
                make_config(
                    "batch_size=16",
                    "model=resnet50",
                    "data.transform.image_size=224",
                    "data.transform.resize=224",
                ),
                terminal,
            )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.gpu
@pytest.mark.parametrize("names", ["native spdl resident replay", "dali"], ids=["of torch", "dali"])
def test_memory_comes_back_after_each_of_ten_jobs(names: str, make_config: Make, terminal: Terminal) -> None:
    """torch's memory is freed at once; contexts and pools of the first job of each loader may stay on the device."""
    allocated, free_mib = [], []
    loaders = names.split()
    for loader in (loaders * 10)[:10]:
        go(make_config("device=cuda", f"loader={loader}", "steps=6"), terminal)
        gc.collect()
        torch.cuda.empty_cache()
        allocated.append(torch.cuda.memory_allocated())
        free_mib.append(torch.cuda.mem_get_info()[0] / 2**20)
    assert allocated == allocated[:1] * 10
    assert free_mib[-1] >= free_mib[len(loaders) - 1] - 64


def test_probes_and_profile_and_verdict(make_config: Make, terminal: Terminal) -> None:
    """The probes, the profile and the verdict, which do not change the training."""
    common = ["epochs=4", "measure.warmup_steps=2", "batch_size=2", "loader.num_workers=1"]
    plain = go(make_config(*common, "measure=bare"), terminal)
    # a contention probe needs 10 steps within three times this, even on a busy machine
    probed = make_config(
        *common,
        "measure=default",
        "measure.profile=true",
        "measure.profile_steps=3",
        "measure.cold=true",
        "measure.probe_s=0.5",
    )
    result = go(probed, terminal)
    record = MlflowClient(probed.tracking.uri).get_run(result.run_id)
    metrics = record.data.metrics
    assert {
        "rate/ceiling_samples_per_s",
        "rate/loader_samples_per_s",
        "rate/contended_samples_per_s",
        "rate/expected_samples_per_s",
        "starvation/headroom_x",
        "starvation/efficiency_pct",
        "cpu/loader_cores",
        "starvation/delivery_pct",
        "time/loader_prepare_ms",
    } <= metrics.keys()
    assert not {"rate/ceiling_samples_per_s", "rate/loader_samples_per_s"} & plain.figures.keys()
    assert metrics["starvation/headroom_x"] == metrics["rate/ceiling_samples_per_s"] / metrics["rate/samples_per_s"]
    assert record.data.tags["verdict"] in {"fed", "partly starved", "starved", "inconclusive"}
    assert result.verdict == record.data.tags["verdict"]
    verdict = re.compile(rf"{result.verdict}(:| of data) ")
    assert any(verdict.match(line) for line in terminal.said[-3:-1])  # the next command may follow it
    assert plain.figures["train/loss"] == metrics["train/loss"]  # the probes ran afterwards and changed nothing
    rows = artifact(probed, result.run_id, "steps.csv").splitlines()
    left_out = sum(row.split(",")[3] == "0" for row in rows[1:])
    assert left_out >= BEYOND + 3 + 4  # profiled steps, and the first of each epoch
    trace = Path(mlflow.artifacts.download_artifacts(f"{record.info.artifact_uri}/trace.json.gz"))
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    names = {str(event.get("name")) for event in events}
    assert {f"loaderlab/{phase}" for phase in ("wait", "transfer", "forward", "backward", "optimizer")} <= names
    assert len({name for name in names if name.startswith("ProfilerStep#")}) == 3


def test_a_profile_is_no_larger_than_its_limit(tmp_path: Path) -> None:
    """The size of the first step's trace decides how many steps fit; with a cap below it, there is only one."""
    meter = StepMeter(Cpu())
    profiler = StepProfiler(tmp_path, 5, 0, Cpu(), 3)
    meter.begin_epoch(0)
    for _ in range(16):
        meter.next_step()
        for _ in range(4):
            torch.ones(8).sum()
            meter.mark()
        meter.end_step(1)
        profiler.step(meter)
    meter.next_step()
    meter.end_epoch()
    profiler.close()
    names = {event.get("name") for event in json.loads(gzip.decompress(profiler.path.read_bytes()))["traceEvents"]}
    assert len({name for name in names if str(name).startswith("ProfilerStep#")}) == 1
    assert [step.disturbed for step in meter.steps] == [False] + [True] * (BEYOND - 1 + 3) + [False] * (16 - BEYOND - 3)


def test_the_synchronising_meter_gives_the_same_metrics(make_config: Make, terminal: Terminal) -> None:
    result = go(make_config("epochs=4", "measure.warmup_steps=2", "measure.sync=true", "measure=bare"), terminal)
    assert set(result.figures) >= METRICS - {"train/learning_rate"}


def test_the_profiler_is_closed_if_the_device_gives_no_times(
    make_config: Make, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[StepProfiler] = []

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("the first error")

    monkeypatch.setattr(measured_loop, "train", fails)
    monkeypatch.setattr(StepMeter, "settle", fails)
    monkeypatch.setattr(StepProfiler, "close", lambda self: closed.append(self))
    with pytest.raises(RuntimeError, match="the first error"):
        go(make_config("measure.profile=true", "measure.profile_steps=1", "epochs=2", "batch_size=2"), terminal)
    assert len(closed) == 1
